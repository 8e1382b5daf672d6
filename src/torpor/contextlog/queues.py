"""Queues: what runs wait in for a machine, and how many of them may have one.

A queue is a name that runs have, and a row here with its limits; it comes to be with its first run.
Its slots are no rows: they are its runs that are running (`torpor.policy.queues`).

`ready` says of a run that waits in its queue, or sleeps, that it wants a machine; the index
`runs_ready` has those and no others, in the order of their queues. So what sleeps, or is not due
yet, costs nothing, however many they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    func,
    insert,
    or_,
    select,
    update,
)

from torpor.contextlog import schema
from torpor.contextlog.news import Claimable, report
from torpor.core.errors import NotFound
from torpor.core.ids import RunId
from torpor.core.rules import Limits, parse_limits
from torpor.core.states import UNFINISHED, RunState

_queues, _runs = schema.queues, schema.runs
_AT_REST = (RunState.QUEUED.value, RunState.SUSPENDED.value)
SETTINGS = ("concurrency", "per_key", "rate")


@dataclass(frozen=True)
class QueueRow:
    name: str
    concurrency: int | None
    per_key: int | None
    rate: str | None
    paused: bool
    made_at: float

    @property
    def limits(self) -> Limits:
        given = {key: getattr(self, key) for key in SETTINGS}
        limits = {key: value for key, value in given.items() if value is not None}
        return parse_limits(limits, f"queue {self.name}")


@dataclass(frozen=True)
class Waiting:
    """Runs that want a machine: how many, and for how many seconds the one that waits longest to be
    started does."""

    runs: int
    longest_s: float


# Of a queue's unfinished runs.
STATES = ("delayed", RunState.QUEUED, RunState.RUNNING, RunState.SUSPENDED)


@dataclass(frozen=True)
class QueueMoment:
    """A queue as it is at one moment; `figures` are its unfinished runs by STATES."""

    row: QueueRow
    figures: Mapping[str, int]
    waiting: Waiting


def ensure_queues(c: Connection, names: Iterable[str], now: float) -> None:
    """Make those that are not there, without limits."""
    wanted = set(names)
    there = set(c.scalars(select(_queues.c.name).where(_queues.c.name.in_(wanted))))
    if missing := sorted(wanted - there):
        rows = [{"name": name, "paused": False, "made_at": now} for name in missing]
        c.execute(insert(_queues), rows)


def set_queue(c: Connection, name: str, now: float, **changes: Any) -> QueueRow:
    """Change settings of a queue, which is made if it is not there: `paused`, or the limits, as a
    file has them (None: without). They have been checked."""
    ensure_queues(c, [name], now)
    if changes:
        c.execute(update(_queues).where(_queues.c.name == name).values(**changes))
        report(c, Claimable())
    return get_queue(c, name)


def declare_queues(c: Connection, declared: Mapping[str, Mapping[str, Any]], now: float) -> None:
    """What an agent's file says of queues, which is all of their limits."""
    for name, limits in declared.items():
        set_queue(c, name, now, **{key: limits.get(key) for key in SETTINGS})


def get_queue(c: Connection, name: str) -> QueueRow:
    row = c.execute(select(_queues).where(_queues.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no queue {name!r}", hint="torpor queues lists them.")
    return QueueRow(**row._mapping)


def list_queues(c: Connection) -> list[QueueRow]:
    return [QueueRow(**row._mapping) for row in c.execute(select(_queues).order_by(_queues.c.name))]


def figures(c: Connection) -> dict[str, Counter[str]]:
    """Of each queue its unfinished runs by state; queued ones that are not due yet as "delayed"."""
    state = (_runs.c.queue, _runs.c.state, _runs.c.ready)
    counts = select(*state, func.count()).where(_runs.c.state.in_(UNFINISHED)).group_by(*state)
    found: dict[str, Counter[str]] = {}
    for queue, name, ready, count in c.execute(counts):
        delayed = name == RunState.QUEUED and not ready
        found.setdefault(queue, Counter())["delayed" if delayed else name] += count
    return found


def moments(c: Connection, now: float) -> list[QueueMoment]:
    """All queues as they are at `now`, s since 1970."""
    unfinished, waits, none = figures(c), waiting(c, now), Waiting(0, 0.0)
    return [
        QueueMoment(row, unfinished.get(row.name, {}), waits.get(row.name, none))
        for row in list_queues(c)
    ]


def waiting(c: Connection, now: float) -> dict[str, Waiting]:
    """Of each queue that has any, the runs that want a machine."""
    at = _runs.c
    due_at = case((at.state == RunState.QUEUED.value, func.coalesce(at.not_before, at.created_at)))
    counted = select(at.queue, func.count(), func.min(due_at)).where(_wants()).group_by(at.queue)
    return {
        queue: Waiting(count, 0.0 if since is None else max(0.0, now - since))
        for queue, count, since in c.execute(counted)
    }


def wanting(c: Connection) -> list[QueueRow]:
    """The queues that are not paused and have runs that want a machine."""
    wants = select(_runs.c.id).where(_runs.c.queue == _queues.c.name, _wants())
    first = _in_order(wants).limit(1).scalar_subquery()
    query = select(_queues).where(~_queues.c.paused, first.is_not(None))
    return [QueueRow(**row._mapping) for row in c.execute(query)]


def first_wanting(
    c: Connection,
    queue: str,
    engines: Collection[str],
    most: int,
    *,
    but: Collection[RunId] = (),
    keys: Collection[str] = (),
    starts: bool = True,
) -> list[Any]:
    """The first runs of the queue that want a machine (id, queue, engine, queue_key, priority,
    state, version, parent), in their order, of these engines; not `but`, nor those of some
    keys, nor those that never had one unless `starts`."""
    at = _runs.c
    columns = (at.id, at.queue, at.engine, at.queue_key, at.priority, at.state, at.version)
    query = select(*columns, at.parent)
    query = query.where(at.queue == queue, _wants(), at.engine.in_(engines))
    if but:
        query = query.where(at.id.not_in(but))
    if keys:
        query = query.where(or_(at.queue_key.is_(None), at.queue_key.not_in(keys)))
    if not starts:
        query = query.where(at.state == RunState.SUSPENDED.value)
    return list(c.execute(_in_order(query).limit(most)))


def running(c: Connection, queues: Collection[str]) -> list[Any]:
    """The runs of these that have a machine: (id, queue, queue_key)."""
    at = _runs.c
    query = select(at.id, at.queue, at.queue_key)
    return list(c.execute(query.where(at.queue.in_(queues), at.state == RunState.RUNNING.value)))


def starts_since(c: Connection, queue: str, since: float, most: int) -> list[float]:
    """When its last runs started, the newest first, at most so many."""
    at = _runs.c
    query = select(at.started_at).where(at.queue == queue, at.started_at > since)
    return list(c.scalars(query.order_by(at.started_at.desc()).limit(most)))


def cancelled_at_rest(c: Connection, most: int) -> list[RunId]:
    """Runs that are to be cancelled and have no machine."""
    wanted = (_runs.c.cancel_requested, _at_rest())
    return [RunId(run) for run in c.scalars(select(_runs.c.id).where(*wanted).limit(most))]


def _in_order(query: Select[Any]) -> Select[Any]:
    # Also where only one is wanted: without statistics SQLite takes a queue for few runs, and those
    # that want something for many. The index that has this order, of these alone, is `runs_ready`.
    return query.order_by(_runs.c.priority.desc(), _runs.c.id)


def _wants() -> ColumnElement[bool]:
    return and_(_runs.c.ready, _at_rest())


def _at_rest() -> ColumnElement[bool]:
    # Not what is looked up: by far the most runs at rest want nothing.
    return (_runs.c.state + "").in_(_AT_REST)
