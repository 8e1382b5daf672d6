"""What becomes of a run whose agent does not do what its log says (`torpor.replay.journal`).

    stop     the run fails, and says what differs
    fork     the run fails, and a fork takes over that has only what was recorded before; there the
             agent goes on as it now is
    latest   the run itself goes on as its agent now is; what it did not ask for is superseded

A fork may diverge as well, and is treated the same, FORKS_MAX times in a row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torpor.core.divergence import FORK, LATEST

FORKS_MAX = 10


@dataclass(frozen=True)
class Stop:
    pass


@dataclass(frozen=True)
class Fork:
    """`at`: the place in the log up to which it is shared."""

    at: int


@dataclass(frozen=True)
class GoOn:
    pass


def decide(on_divergence: str, recorded_at: int | None, forks_before: int) -> Stop | Fork | GoOn:
    """`recorded_at` is where in the log the first operation began that was not asked for, None if
    there is none such in it: what a machine says may be wrong. `forks_before` is how many forks for
    that reason led to the run."""
    if recorded_at is not None and on_divergence == FORK and forks_before < FORKS_MAX:
        return Fork(recorded_at - 1)
    if recorded_at is not None and on_divergence == LATEST:
        return GoOn()
    return Stop()
