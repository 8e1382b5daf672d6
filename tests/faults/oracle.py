"""What a run's log says about how often something may have happened."""

from __future__ import annotations

from collections.abc import Iterable

from torpor.contextlog.entries import DONE_AGAIN, EntryRow


def times_at_most(log: Iterable[EntryRow]) -> dict[str, int]:
    """By operation: once, and once more for each time that it is marked as done again.

    A body begins when its beginning is on its way to the log, which does not come there if the
    machine or the server is lost just then. So a loss before an operation began in the log may
    have been one in its middle, and nothing tells.
    """
    losses, most = 0, dict[str, int]()
    for entry in log:
        if entry.kind == "run.recovered":
            losses += 1
        elif entry.kind == "op.begin" and entry.data["kind"] in DONE_AGAIN:
            most[str(entry.op)] = 1 + losses
        elif entry.kind == "op.again":
            most[str(entry.op)] += 1
    return most
