"""How an agent's process answers when it is to stand still: if it rests, or anyhow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torpor.sdk import freezing
from torpor.sdk.critical import Critical
from torpor.sdk.rest import Rest, Watch

T = TypeVar("T")


def prepare(
    message: Mapping[str, Any],
    watch: Watch,
    critical: Critical,
    obstacle: Callable[[], str],
    hold: Callable[[Rest], list[T]],
    tell: Callable[..., None],
) -> list[T]:
    """Stand still; with `rest_s` only if the agent has heard all that came, and rests. What `hold`
    gives, called under the runtime's lock unless there is an `obstacle`, when the process goes on;
    nothing if it did not stand still; that is reported."""
    rest_s, anyhow = message.get("rest_s"), message.get("anyhow", False)
    calls = message.get("calls", False)
    found = watch.look(rest_s, calls=calls)
    held: list[T] = []
    refusal = ("" if anyhow else found.busy) or freezing.before_freeze()
    if not refusal:
        if freezing.hooked():  # they took their time
            found = watch.look(rest_s, calls=calls)
        with critical:
            if rest_s is not None and watch.stirred and not found.busy:
                found = Rest("an operation begins")
            refusal = ("" if anyhow else found.busy) or obstacle()
            if not refusal:
                held = hold(found)
        freezing.after_freeze()
    if refusal:
        again = {"again_s": found.again_s} if refusal == found.busy else {}
        with critical:
            tell("unprepared", reason=refusal, **again)
    return held
