"""What becomes of runs by time alone: one that was delayed is due; one that was not started in time
is cancelled; one that takes longer than its agent's file allows (`max_wall`, from its start;
`max_compute`, with a machine and something to do) has failed; one that sleeps and has something of
its own to do, such as a timeout of its event loop, is woken.

How long an agent whose machine stays up has only waited, its driver counts, and says now and then.
So when a run that has one should have ended, its driver is asked whether it has overrun.

`runs.due_at` is when something is next to be done; an index has those that have one. What it is
follows from the row. It is done in the write that finds it so, once.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, func, select, update

from torpor.contextlog import schema
from torpor.contextlog.agents import get_agent
from torpor.contextlog.entries import refusal
from torpor.contextlog.news import Claimable, Overran, report
from torpor.contextlog.runs import RunRow, computed_s, get_run, limited, transition
from torpor.core.ids import Epoch, RunId
from torpor.core.states import FINAL, RunState

AGAIN_S = 10.0
# One that has only waited has as much time left as before, be it ever so little: not at once again.
RESTED_AGAIN_S = 1.0
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
            report(c, Claimable())
        elif row.state in FINAL:
            _set(c, run, due_at=None)
        elif row.wake_at is not None and row.wake_at <= now and not _too_old(row, now):
            _set(c, run, ready=True, wake_at=None, due_at=row.wall_until)
            report(c, Claimable())
        else:
            _overrun(c, row, now)


def waited(c: Connection, run: RunId, epoch: Epoch, waited_s: float, now: float) -> None:
    """All in all, the run has only waited so long while it had a machine. Raises StaleEpoch."""
    row = replace(get_run(c, run), waited_s=waited_s)
    if row.epoch != epoch:
        raise refusal(c, run, epoch)
    _set(c, run, waited_s=waited_s, **limited(row, get_agent(c, row.version).rules, now))


def overrun(c: Connection, run: RunId, now: float) -> str | None:
    """What limit a run that has a machine has overrun, in words. None: it has only waited, and is
    to be looked at again."""
    row = get_run(c, run)
    most_s = get_agent(c, row.version).rules.max_compute_s
    if _too_old(row, now):
        return _message("max_wall")
    if most_s is not None and computed_s(row, now) >= most_s:
        return _message("max_compute")
    if row.due_at is not None:
        _set(c, run, due_at=max(row.due_at, now + RESTED_AGAIN_S))
    return None


def _overrun(c: Connection, row: RunRow, now: float) -> None:
    """Where it has a machine, its driver ends it. If no driver gets the news, they are reported
    again."""
    if row.state is RunState.RUNNING:
        _set(c, row.id, due_at=now + AGAIN_S)
        report(c, Overran(row.id))
    elif _too_old(row, now):
        error = {"type": OVERRAN, "message": _message("max_wall"), "traceback": None}
        transition(c, row.id, None, RunState.FAILED, now, error=error)
    else:
        due = [at for at in (row.wall_until, row.wake_at) if at is not None]
        _set(c, row.id, due_at=min(due, default=None))


def _too_old(row: RunRow, now: float) -> bool:
    return row.wall_until is not None and row.wall_until <= now


def _message(what: str) -> str:
    return f"it took longer than its agent's file allows: {what}"


def _set(c: Connection, run: RunId, **values: object) -> None:
    c.execute(update(_runs).where(_runs.c.id == run).values(**values))
