"""What becomes of runs by time alone: one that was delayed is due; one that was not started in time
is cancelled.

`runs.due_at` is when something is next to be done; an index has those that have one. What it is
follows from the row. It is done in the write that finds it so, once.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from torpor.contextlog import schema
from torpor.contextlog.news import Claimable
from torpor.contextlog.runs import get_run, transition
from torpor.contextlog.store import tell
from torpor.model.ids import RunId
from torpor.model.states import RunState

MOST = 500  # at once: others want to write, too
EXPIRED = {"type": "Expired", "message": "it was not started in time", "traceback": None}

_runs = schema.runs


def next_due(c: Connection) -> float | None:
    """When there is next something to be done."""
    due: float | None = c.scalar(
        select(func.min(_runs.c.due_at)).where(_runs.c.due_at.is_not(None))
    )
    return due


def end_due(c: Connection, now: float) -> None:
    """Do what is due."""
    due = select(_runs.c.id).where(_runs.c.due_at.is_not(None), _runs.c.due_at <= now)
    for run in [RunId(run) for run in c.scalars(due.order_by(_runs.c.due_at).limit(MOST))]:
        row = get_run(c, run)
        if row.state is RunState.QUEUED and row.expires_at is not None and row.expires_at <= now:
            transition(c, run, None, RunState.CANCELLED, now, error=EXPIRED)
        elif row.state is RunState.QUEUED:
            _set(c, run, ready=True, due_at=row.expires_at)
            tell(c, Claimable())
        else:
            _set(c, run, due_at=None)


def _set(c: Connection, run: RunId, **values: object) -> None:
    c.execute(update(_runs).where(_runs.c.id == run).values(**values))
