"""Keys of runs, as the host's key wraps them: what opens a run's snapshots.

A key is recorded in the transaction that records its run's first snapshot, so there is one
wherever it is needed. It goes for good when its run has ended and has no snapshot left, nor a large
result that it opens: the
database overwrites what it deletes (`secure_delete`), and `SqliteStore.scrub` empties the file of
writes that are on their way into it.
"""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from torpor.contextlog import schema
from torpor.core.ids import RunId
from torpor.core.states import FINAL

_keys = schema.run_keys


def put_key(c: Connection, run: RunId, wrapped: bytes) -> None:
    """Nothing happens if the run has one: its snapshots are sealed with that."""
    if find_key(c, run) is None:
        c.execute(insert(_keys), [{"run": run, "wrapped": wrapped}])


def find_key(c: Connection, run: RunId) -> bytes | None:
    return c.scalar(select(_keys.c.wrapped).filter_by(run=run))


def any_key(c: Connection) -> tuple[RunId, bytes] | None:
    """One of the keys, to try the host's on."""
    row = c.execute(select(_keys.c.run, _keys.c.wrapped).limit(1)).first()
    return None if row is None else (row.run, row.wrapped)


def destroy_unused_keys(c: Connection) -> list[RunId]:
    """Destroy the keys of ended runs that have nothing left for them to open. Whose they were."""
    runs, snapshots = schema.runs.c, schema.snapshots.c
    live = select(snapshots.run).where(
        snapshots.run == _keys.c.run, snapshots.reclaimed_at.is_(None)
    )
    sealed = schema.large_values.c
    values = select(sealed.run).where(sealed.run == _keys.c.run, sealed.sealed)
    unused = (
        select(_keys.c.run)
        .join(schema.runs, runs.id == _keys.c.run)
        .where(runs.state.in_([state.value for state in FINAL]))
        .where(~live.exists(), ~values.exists())
    )
    found = [RunId(run) for run in c.scalars(unused)]
    for run in found:
        destroy_key(c, run)
    return found


def destroy_key(c: Connection, run: RunId) -> None:
    """After this commits, nobody can open what is sealed with the run's key."""
    c.execute(delete(_keys).where(_keys.c.run == run))
