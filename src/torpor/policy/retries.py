"""Whether a run that has failed is tried again by itself, when, and with how much memory. Pure.

What is tried again is a new run, a retry of the failed one (`torpor.contextlog.forks`): what was
recorded is kept. Not tried again is what would come to the same: a program that diverges from its
log or is refused by it, a limit that was reached, an agent that raised `NonRetryable`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torpor.core.ids import OpId
from torpor.core.rules import Rules

RUN_BACKOFF_S_MAX = 3600.0
# Its machine was full, or would have been.
_OUT_OF_MEMORY = frozenset({"OutOfMemory", "MemoryError"})
_FOR_GOOD = frozenset(
    {"Invalid", "Conflict", "NotFound", "CannotRestore", "Overran", "Expired", "Cancelled"}
)


@dataclass(frozen=True)
class Failure:
    """What counts of a failure: the type of its error, and what the agent says beside that."""

    type: str
    diverged: OpId | None = None  # from this operation of its log
    after_s: float | None = None  # it is to be tried again, but not before
    final: bool = False  # it is not to be tried again


@dataclass(frozen=True)
class Retry:
    """`memory_mib`: on a machine of this size, if not the same. `counts`: it is one of the file's
    `retries`."""

    delay_s: float
    memory_mib: int | None = None
    counts: bool = True


def decide(
    failure: Failure, attempt: int, rules: Rules, memory_mib: int | None, chance: float
) -> Retry | None:
    """For the run's `attempt`, counted from 1, on a machine of `memory_mib`, if it has one;
    `chance` is from 0 to 1."""
    most = rules.memory_max_mib
    starved = failure.type in _OUT_OF_MEMORY
    if starved and memory_mib is not None and most is not None and memory_mib < most:
        return Retry(0.0, min(2 * memory_mib, most), counts=False)
    if attempt > rules.retries or failure.type in _FOR_GOOD:
        return None
    if failure.final or failure.diverged is not None:
        return None
    if failure.after_s is not None:
        return Retry(failure.after_s)
    full = min(rules.retry_backoff_s * 2.0 ** min(attempt - 1, 30), RUN_BACKOFF_S_MAX)
    return Retry(full * (0.5 + chance / 2))
