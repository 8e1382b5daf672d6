"""What becomes of runs by time alone: one that was delayed is due; one that was not started in time
is cancelled; one that takes longer than its agent's file allows (`max_wall`, from its start;
`max_compute`, while it has a machine) has failed.

`runs.due_at` is when something is next to be done; an index has those that have one. What it is
follows from the row. It is done in the write that finds it so, once.
"""

from __future__ import annotations

from sqlalchemy import Connection, func, select, update

from torpor.contextlog import schema
from torpor.contextlog.news import Claimable, Overran
from torpor.contextlog.runs import RunRow, get_run, transition
from torpor.contextlog.store import tell
from torpor.model.ids import RunId
from torpor.model.states import FINAL, RunState

AGAIN_S = 10.0
MOST = 500  # at once: others want to write, too
OVERRAN = "Overran"
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
        elif row.state in FINAL:
            _set(c, run, due_at=None)
        else:
            _overrun(c, row, now)


def _overrun(c: Connection, row: RunRow, now: float) -> None:
    """Where it has a machine, its driver ends it. Should none hear of it, it is told again."""
    what = "max_wall" if row.wall_until is not None and row.wall_until <= now else "max_compute"
    message = f"it took longer than its agent's file allows: {what}"
    if row.state is RunState.RUNNING:
        _set(c, row.id, due_at=now + AGAIN_S)
        tell(c, Overran(row.id, message))
    elif what == "max_wall":
        error = {"type": OVERRAN, "message": message, "traceback": None}
        transition(c, row.id, None, RunState.FAILED, now, error=error)
    else:
        _set(c, row.id, due_at=row.wall_until)


def _set(c: Connection, run: RunId, **values: object) -> None:
    c.execute(update(_runs).where(_runs.c.id == run).values(**values))
