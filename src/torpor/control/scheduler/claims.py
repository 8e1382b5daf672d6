"""Which runs are to be claimed now: what the log says, put to `torpor.policy.queues`.

Reads no more of a queue than may go, so a long queue costs what a short one does. Reading changes
nothing: whoever claims must be told again of what it has not claimed yet (`held`).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import queues, runs
from torpor.contextlog.queues import QueueRow
from torpor.contextlog.runs import RunRow
from torpor.core.ids import RunId
from torpor.core.rules import Limits
from torpor.core.states import RunState
from torpor.policy.queues import Obstacle, Use, Waiting, choose, full, obstacle

CANCELLED_MAX = 100  # at once
_AT_REST = (RunState.QUEUED, RunState.SUSPENDED)


@dataclass(frozen=True)
class Claims:
    """`again_at`: when a rate lets the next one go, if one waits for that."""

    rows: list[RunRow]
    again_at: float | None = None


def next_runs(
    c: Connection, room: Mapping[str, int], held: Collection[RunId], now: float
) -> Claims:
    """Runs to claim, in their order, and before them those that are to be cancelled without that.
    `room` is how many more each engine can carry; `held` are the runs that have a driver."""
    unwanted = [run for run in queues.cancelled_at_rest(c, CANCELLED_MAX) if run not in held]
    rows = runs.get_runs(c, unwanted) if unwanted else []
    if all(left <= 0 for left in room.values()):
        return Claims(rows)
    wanting = queues.wanting(c)
    if not wanting:
        return Claims(rows)
    limits = {queue.name: queue.limits for queue in wanting}
    use, again_at = _use(c, limits, held, now)
    use.room = Counter({engine: max(0, left) for engine, left in room.items()})
    but = {*held, *unwanted}
    found = [one for queue in wanting for one in _first(c, queue, limits, use, but)]
    chosen = [one.run for one in choose(found, limits, use)]
    return Claims([*rows, *runs.get_runs(c, chosen)], again_at)


def reasons(
    c: Connection,
    rows: Iterable[RunRow],
    room: Mapping[str, int],
    held: Collection[RunId],
    now: float,
) -> dict[RunId, str]:
    """Of those that want a machine, or are to start later, why they have none: in words. `room` is
    as in `next_runs`; an engine that is not in it is not ready."""
    waiting = [row for row in rows if row.state in _AT_REST and row.id not in held]
    waiting = [row for row in waiting if row.ready or row.state is RunState.QUEUED]
    if not waiting:
        return {}
    names = {row.queue for row in waiting}
    known = {each.name: each for each in queues.list_queues(c) if each.name in names}
    use, again_at = _use(c, {name: each.limits for name, each in known.items()}, held, now)
    use.room = Counter({engine: max(0, left) for engine, left in room.items()})
    return {row.id: _reason(row, known[row.queue], room, use, again_at, now) for row in waiting}


def _reason(
    row: RunRow,
    queue: QueueRow,
    room: Mapping[str, int],
    use: Use,
    again_at: float | None,
    now: float,
) -> str:
    name, limits = f"queue {queue.name}", queue.limits
    if row.after is not None and not row.ready:
        return f"{row.after} of the same schedule has not ended"
    if (row.not_before or 0) > now:
        return "its delay is not over"
    if queue.paused:
        return f"{name} is paused (torpor queues resume {shlex.quote(queue.name)})"
    if row.engine not in room:
        return f"the engine {row.engine} is not ready yet"
    match obstacle(_waiting(row), limits, use):
        case Obstacle.CONCURRENCY:
            return f"{name} is full: {use.running[queue.name]} of {limits.concurrency} run"
        case Obstacle.PER_KEY:
            return f"{name} is full for key {row.queue_key}: {limits.per_key} of it run"
        case Obstacle.RATE:
            assert limits.rate is not None
            soon = "" if again_at is None else f": the next in {max(0.0, again_at - now):.0f} s"
            return f"{name} starts {limits.rate.text}{soon}"
        case Obstacle.ROOM:
            return "the host runs as many agents as it can"
    return "it is its turn"


def _use(
    c: Connection, limits: Mapping[str, Limits], held: Collection[RunId], now: float
) -> tuple[Use, float | None]:
    """What is taken, by those that are running and those that are about to be claimed."""
    use, again = Use(), []
    for run, queue, key in queues.running(c, list(limits)):
        use.take(Waiting(run, queue, "", key, starts=False))
    for row in runs.get_runs(c, list(held)) if held else []:
        if row.state in _AT_REST:
            use.take(_waiting(row))
    for name, each in limits.items():
        if each.rate is not None:
            starts = queues.starts_since(c, name, now - each.rate.per_s, each.rate.count)
            use.started[name] += len(starts)
            if len(starts) >= each.rate.count:
                again.append(starts[-1] + each.rate.per_s)
    return use, min(again, default=None)


def _first(
    c: Connection,
    queue: QueueRow,
    limits: Mapping[str, Limits],
    use: Use,
    but: Collection[RunId],
) -> list[Waiting]:
    """Those of a queue that would go if it were the only one: no more of it need be read."""
    name, limit = queue.name, limits[queue.name]
    use = use.copy()
    found: list[Waiting] = []
    while True:
        engines = [engine for engine, left in use.room.items() if left > 0]
        most = sum(use.room[engine] for engine in engines)
        if limit.concurrency is not None:
            most = min(most, limit.concurrency - use.running[name])
        if most <= 0:
            return found
        by_key = [(key, n) for (q, key), n in use.by_key.items() if q == name]
        next_ones = queues.first_wanting(
            c,
            name,
            engines,
            most,
            but=[*but, *(one.run for one in found)],
            keys=[key for key, n in by_key if full(limit.per_key, n)],
            starts=limit.rate is None or use.started[name] < limit.rate.count,
        )
        chosen = choose([_read(row) for row in next_ones], limits, use)
        if not chosen:
            return found
        found += chosen


def _read(row: Any) -> Waiting:
    run, queue, engine, key, priority, state = row
    return Waiting(RunId(run), queue, engine, key, priority, starts=state == RunState.QUEUED)


def _waiting(row: RunRow) -> Waiting:
    starts = row.state is RunState.QUEUED
    return Waiting(row.id, row.queue, row.engine, row.queue_key, row.priority, starts)
