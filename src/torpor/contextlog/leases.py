"""Which worker carries a run, and until when: columns of the run's row while it is running. They
are written by a claim, renewed here, and gone with the write that takes the run to another state.
"""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, select, update

from torpor.contextlog import schema
from torpor.contextlog.runs import RunRow, get_runs
from torpor.core.ids import Epoch, RunId
from torpor.core.states import RunState
from torpor.core.workers import Lease, Worker

_at = schema.runs.c
_RUNNING = _at.state == RunState.RUNNING.value


def renew(c: Connection, lease: Lease, held: Mapping[RunId, Epoch]) -> list[RunId]:
    """Lengthen the lease on all that its worker carries: `held`, with their epochs. Which of them
    it carries no more, as another worker has taken them over."""
    mine = _at.worker_id == lease.worker.id
    c.execute(update(schema.runs).where(_RUNNING, mine).values(lease_until=lease.until))
    others = _at.worker_id.is_distinct_from(lease.worker.id)
    found = c.execute(select(_at.id, _at.epoch).where(_at.id.in_(held), others))
    return [RunId(run) for run, epoch in found if epoch > held[RunId(run)]]


def of_others(c: Connection, worker: Worker) -> list[RunRow]:
    """The running runs that another worker carries, or has carried."""
    other = (_at.worker_id.is_not(None), _at.worker_id != worker.id)
    return get_runs(c, [RunId(run) for run in c.scalars(select(_at.id).where(_RUNNING, *other))])
