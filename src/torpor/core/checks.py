"""What was found of a host, in a report that a person reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torpor.core.errors import TorporError


@dataclass(frozen=True)
class Check:
    """One line of the report. `ok` is None for a remark."""

    name: str
    ok: bool | None
    detail: str
    hint: str = ""


def attempt(name: str, find: Callable[[], str]) -> Check:
    """What `find` returns, or the error that it raises."""
    try:
        return Check(name, True, find())
    except TorporError as error:
        return Check(name, False, error.message, error.hint)
