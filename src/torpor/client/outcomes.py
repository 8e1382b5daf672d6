"""How a run ended, for a program that has started it and wants its result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torpor.core.errors import GuestError
from torpor.core.states import FINAL, RunState

if TYPE_CHECKING:
    from torpor.client.api import Client

# Of its log no more is asked for.
_END = ("run.completed", "run.failed", "run.cancelled")


class RunFailed(GuestError):
    """The run failed, or was cancelled; `outcome` has the rest."""

    code: ClassVar[str] = "run_failed"

    def __init__(self, outcome: Outcome) -> None:
        error = outcome.error or {}
        why = ": ".join(str(error[each]) for each in ("type", "message") if error.get(each))
        super().__init__(
            f"run {outcome.id} {'was ' * (outcome.state == RunState.CANCELLED)}{outcome.state}"
            + (f": {why}" if why else ""),
            hint=f"torpor show {outcome.id}",
        )
        self.outcome = outcome


@dataclass(frozen=True)
class Outcome:
    """A run that has ended. `id` is that of the run itself, or of the retry that took its place."""

    id: str
    state: str  # completed, failed or cancelled
    result: Any  # what its agent returned
    error: dict[str, Any] | None  # type, message, traceback
    run: dict[str, Any]  # all about it, as `Client.run` gives it

    def unwrap(self) -> Any:
        """The result. Raises RunFailed."""
        if self.state != RunState.COMPLETED:
            raise RunFailed(self)
        return self.result


def join(client: Client, ref: str, timeout_s: float | None) -> Outcome:
    """Raises TimeoutError if it goes on for longer."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        run = client.run(ref)  # and whether there is one, and a server
        if run["state"] not in FINAL:
            for _ in client.follow(ref, after=run["last_seq"], kinds=_END, until=until):
                pass
            run = client.run(ref)
        if run["successor"] is None:
            return Outcome(run["id"], run["state"], run["result"], run["error"], run)
        ref = run["successor"]
