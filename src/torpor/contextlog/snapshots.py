"""Records of snapshots: which frozen machine stands at which place of which run's log.

A record is written only when its layers and manifest are durable (rule 5): that is the caller's
part. `seq` is the last entry whose effect the frozen machine has; what the log holds after it is
replayed into the machine when it is restored. `heard_seq` is the last entry there was when it was
taken: mostly the same, but some results may have been on their way to the machine. What it did is
all in the log up to there, so that a fork that shares that much may begin with it.

A snapshot that is no longer kept is *reclaimed*: its record stays, its bytes go when the garbage
is collected, and nothing restores from it any more. That is never taken back.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.refs import resolve
from torpor.core.errors import Conflict
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq, SnapshotId, new_id, op_kind
from torpor.core.position import NOT_BEGUN, Position
from torpor.core.states import RunState

_snapshots = schema.snapshots

_INTERNAL = {"link", "version", "heard_seq"}

# A template belongs to no run: it stands before any epoch and any entry.
_NO_EPOCH, _NO_SEQ = Epoch(0), Seq(0)


@dataclass(frozen=True)
class SnapshotRow:
    id: SnapshotId
    run: RunId | None
    version: AgentVersion
    epoch: Epoch
    seq: Seq
    heard_seq: Seq
    parent: SnapshotId | None
    manifest: str
    bytes: int
    pause_ms: float
    freeze_ms: float
    created_at: float
    link: dict[str, Any] | None
    detail: dict[str, Any]  # its position, as JSON
    pinned: bool
    reclaimed_at: float | None

    def position(self) -> Position:
        """Where its agent stood. Raises Invalid."""
        return Position.of_json(self.detail)

    def to_json(self) -> dict[str, Any]:
        """As the API shows it: without what only a restore needs."""
        return {key: value for key, value in vars(self).items() if key not in _INTERNAL}


@dataclass(frozen=True)
class NewSnapshot:
    """A snapshot of `run` by its machine of `epoch`; without a run it is a template. `seen_upto` is
    how long the log was when it was taken, by default no longer than `seq`."""

    version: AgentVersion
    manifest: str
    bytes: int
    pause_ms: float
    freeze_ms: float
    created_at: float
    run: RunId | None = None
    epoch: Epoch = _NO_EPOCH
    seq: Seq = _NO_SEQ
    seen_upto: Seq | None = None
    parent: SnapshotId | None = None
    link: Mapping[str, Any] | None = None
    position: Position = NOT_BEGUN


def record_snapshot(c: Connection, new: NewSnapshot) -> SnapshotRow:
    """Appends a `snapshot` entry to its run's log. Raises StaleEpoch (rule 4), NotFound."""
    snapshot = SnapshotId(new_id("snap"))
    if new.run is not None:
        shown = ("seq", "manifest", "bytes", "pause_ms", "freeze_ms")
        data = {"snapshot": snapshot, **{key: getattr(new, key) for key in shown}}
        append(c, new.run, new.epoch, [NewEntry("snapshot", None, data)], new.created_at)
    values = {
        key: value for key, value in vars(new).items() if key not in ("seen_upto", "position")
    }
    values |= {
        "id": snapshot,
        "heard_seq": new.seq if new.seen_upto is None else new.seen_upto,
        "detail": new.position.to_json(),
    }
    c.execute(insert(_snapshots), [values])
    return get_snapshot(c, snapshot)


def get_snapshot(c: Connection, ref: str) -> SnapshotRow:
    """The snapshot whose id is `ref` or alone begins with it. Raises NotFound."""
    snapshot = resolve(c, _snapshots.c.id, ref, what="snapshot", prefix="snap_")
    return _row(c.execute(select(_snapshots).filter_by(id=snapshot)).one())


def newest_snapshot(c: Connection, run: RunId) -> SnapshotRow | None:
    """What the run would be restored from; None if only its template serves."""
    row = c.execute(_newest_first(run).limit(1)).first()
    return None if row is None else _row(row)


def list_snapshots(c: Connection, run: RunId, *, reclaimed: bool = False) -> list[SnapshotRow]:
    """Newest first: those it may be restored from, or all there ever were."""
    return [_row(row) for row in c.execute(_newest_first(run, reclaimed=reclaimed))]


def under_calls(
    c: Connection,
    kinds: Collection[str],
    *,
    engine: str | None = None,
    among: Collection[RunId] | None = None,
) -> dict[RunId, list[OpId]]:
    """The runs that sleep, and for which nothing has come yet, with the operations of these kinds
    under which they do: those of an engine, or those `among` these. One query."""
    runs, at = schema.runs.c, _snapshots.c
    of_run = select(at.detail).where(at.run == runs.id, at.reclaimed_at.is_(None))
    newest = of_run.order_by(at.epoch.desc(), at.seq.desc()).limit(1).scalar_subquery()
    asleep = [runs.state == RunState.SUSPENDED, ~runs.ready]
    asleep += [runs.engine == engine] if engine is not None else []
    asleep += [runs.id.in_(among)] if among is not None else []
    found = {}
    for run, detail in c.execute(select(runs.id, newest).where(*asleep)):
        unanswered = (detail or {}).get("unanswered", ())
        calls = [OpId(op) for op in unanswered if op_kind(OpId(op)) in kinds]
        if calls:
            found[RunId(run)] = calls
    return found


def base_of(c: Connection, run: RunId) -> SnapshotRow | None:
    """What a fork begins from, unless that is its template; None once it was reclaimed."""
    at = _snapshots.c
    query = select(_snapshots).join(schema.runs, schema.runs.c.base == at.id)
    row = c.execute(query.where(schema.runs.c.id == run, at.reclaimed_at.is_(None))).first()
    return None if row is None else _row(row)


def set_pinned(c: Connection, snapshot: SnapshotId, pinned: bool) -> SnapshotRow:
    """Keep the snapshot whatever policy says, or no longer. Raises Conflict, NotFound."""
    row = get_snapshot(c, snapshot)
    if row.reclaimed_at is not None:
        raise Conflict(f"snapshot {row.id} has been removed", hint="Only its record is left.")
    c.execute(update(_snapshots).where(_snapshots.c.id == row.id).values(pinned=pinned))
    return get_snapshot(c, row.id)


@dataclass(frozen=True)
class LiveRow:
    """A snapshot that may be restored, without what only a restore needs."""

    id: SnapshotId
    run: RunId | None
    version: AgentVersion
    manifest: str
    bytes: int
    created_at: float
    pinned: bool


def live_snapshots(c: Connection) -> list[LiveRow]:
    """All snapshots and templates that were not reclaimed, each run's newest first."""
    at = _snapshots.c
    query = select(at.id, at.run, at.version, at.manifest, at.bytes, at.created_at, at.pinned)
    query = query.where(at.reclaimed_at.is_(None))
    rows = c.execute(query.order_by(at.run, at.epoch.desc(), at.seq.desc(), at.id.desc()))
    return [LiveRow(**row._mapping) for row in rows]


def reclaim(c: Connection, snapshots: Collection[SnapshotId], now: float) -> None:
    """From now on nothing is restored from these; agents lose them as templates."""
    agents, at = schema.agents.c, _snapshots.c
    for snapshot in snapshots:
        c.execute(update(_snapshots).where(at.id == snapshot).values(reclaimed_at=now))
        c.execute(update(schema.agents).where(agents.template == snapshot).values(template=None))


def _newest_first(run: RunId, *, reclaimed: bool = False) -> Any:
    # By epoch and seq, which only grow; clocks may be set back.
    at = _snapshots.c
    query = select(_snapshots).where(at.run == run)
    if not reclaimed:
        query = query.where(at.reclaimed_at.is_(None))
    return query.order_by(at.epoch.desc(), at.seq.desc(), at.id.desc())


def _row(row: Any) -> SnapshotRow:
    return SnapshotRow(**row._mapping)
