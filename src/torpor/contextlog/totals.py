"""How much of everything there is."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, select

from torpor.contextlog import schema
from torpor.contextlog.waits import ASKING, OPEN
from torpor.core.states import RunState


@dataclass(frozen=True)
class Totals:
    runs: dict[str, int]  # by state, every state
    waits_open: int
    waits_asking: int  # of these, those that a person may answer
    snapshots: int  # that were not reclaimed, templates too
    snapshot_bytes: int


def totals(c: Connection) -> Totals:
    state, taken = schema.runs.c.state, schema.snapshots.c
    by_state = c.execute(select(state, func.count().label("many")).group_by(state))
    counted = {row.state: row.many for row in by_state}
    kind = schema.waits.c.kind
    by_kind = select(kind, func.count().label("many")).where(schema.waits.c.state == OPEN)
    waits = {row.kind: row.many for row in c.execute(by_kind.group_by(kind))}
    asking = sum(waits.get(each, 0) for each in ASKING)
    kept = select(func.count(), func.coalesce(func.sum(taken.bytes), 0))
    snapshots, snapshot_bytes = c.execute(kept.where(taken.reclaimed_at.is_(None))).one()
    runs = {each.value: counted.get(each.value, 0) for each in RunState}
    return Totals(runs, sum(waits.values()), asking, snapshots, snapshot_bytes)
