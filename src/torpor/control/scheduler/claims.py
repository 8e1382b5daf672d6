"""Which runs are to be claimed now: what the log says, put to `torpor.policy.queues`.

Reads no more of a queue than may go, so a long queue costs what a short one does. Reading changes
nothing: a run is found again until it is claimed, or `held` by a driver that is about to.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, queues, runs
from torpor.contextlog.queues import QueueRow
from torpor.contextlog.runs import RunRow
from torpor.core.ids import AgentVersion, RunId
from torpor.core.rules import Limits
from torpor.core.states import RunState
from torpor.policy.admission import Room
from torpor.policy.queues import Obstacle, Use, Waiting, choose, full, obstacle

CANCELLED_MAX = 100  # at once
# So many of a queue that wait for memory are looked past, at those that go after them.
LARGE_MAX = 16
_AT_REST = (RunState.QUEUED, RunState.SUSPENDED)


@dataclass(frozen=True)
class Claims:
    """`again_at`: when a rate lets the next one go, if one waits for that."""

    rows: list[RunRow]
    again_at: float | None = None


class Needs:
    """How much memory runs take, by the version of their agent: read once each. `mib_of` are the
    engines that carry them: what one takes whose agent's file asks for so many MiB."""

    def __init__(self, mib_of: Mapping[str, Callable[[int], int]]) -> None:
        self._mib_of = mib_of
        self._known: dict[AgentVersion, int] = {}

    def read(self, c: Connection, engine: str, version: AgentVersion) -> int:
        if engine not in self._mib_of:
            return 0  # it does not go anyway
        if version not in self._known:
            wanted_mib = agents.get_agent(c, version).spec.get("memory_mib", 0)
            self._known[version] = self._mib_of[engine](wanted_mib)
        return self._known[version]

    def known(self, version: AgentVersion) -> int:
        """Of a run that was read."""
        return self._known.get(version, 0)


def next_runs(
    c: Connection, room: Room, needs: Needs, held: Collection[RunId], now: float
) -> Claims:
    """Runs to claim, in their order, and before them those that are to be cancelled without that.
    `room` is what the host has, without what is waiting; `held` are the runs that have a driver."""
    unwanted = [run for run in queues.cancelled_at_rest(c, CANCELLED_MAX) if run not in held]
    rows = runs.get_runs(c, unwanted) if unwanted else []
    if room.runs_left <= 0:
        return Claims(rows)
    wanting = queues.wanting(c)
    if not wanting:
        return Claims(rows)
    limits = {queue.name: queue.limits for queue in wanting}
    use, again_at = _use(c, limits, room, held, now)
    found = _candidates(c, wanting, limits, use, needs, {*held, *unwanted})
    chosen = [one.run for one in choose(found, limits, use)]
    return Claims([*rows, *runs.get_runs(c, chosen)], again_at)


def reasons(
    c: Connection,
    rows: Iterable[RunRow],
    room: Room,
    needs: Needs,
    held: Collection[RunId],
    now: float,
) -> dict[RunId, str]:
    """Of those that want a machine, or are to start later, why they have none: in words. `room` is
    as in `next_runs`."""
    waiting = [row for row in rows if row.state in _AT_REST and row.id not in held]
    waiting = [row for row in waiting if row.ready or row.state is RunState.QUEUED]
    if not waiting:
        return {}
    known = {each.name: each for each in queues.list_queues(c)}
    limits = {name: each.limits for name, each in known.items()}
    use, again_at = _use(c, limits, room, held, now)
    trial = use.copy()
    choose(_candidates(c, queues.wanting(c), limits, trial, needs, held), limits, trial)
    use.room.reserved = trial.room.reserved
    return {
        row.id: _reason(_waiting(c, row, needs), row, known[row.queue], use, again_at, now)
        for row in waiting
    }


def _reason(
    one: Waiting,
    row: RunRow,
    queue: QueueRow,
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
    if row.engine not in use.room.engines:
        return f"the engine {row.engine} is not ready yet"
    match obstacle(one, limits, use):
        case Obstacle.CONCURRENCY:
            return f"{name} is full: {use.running[queue.name]} of {limits.concurrency} run"
        case Obstacle.PER_KEY:
            return f"{name} is full for key {row.queue_key}: {limits.per_key} of it run"
        case Obstacle.RATE:
            assert limits.rate is not None
            soon = "" if again_at is None else f": the next in {max(0.0, again_at - now):.0f} s"
            return f"{name} starts {limits.rate.text}{soon}"
        case Obstacle.ROOM:
            return _lacking(one, use.room)
    return "it is its turn"


def _lacking(one: Waiting, room: Room) -> str:
    if room.runs_left <= 0:
        return "the host runs as many agents as it can"
    if one.mib > room.left_mib:
        return f"it takes {one.mib:,} MiB, and the host has {max(0, room.left_mib):,} MiB left"
    return f"it takes {one.mib:,} MiB, which are kept for a larger run that goes first"


def _use(
    c: Connection, limits: Mapping[str, Limits], room: Room, held: Collection[RunId], now: float
) -> tuple[Use, float | None]:
    """What is taken, by those that are running and those that are about to be claimed."""
    use, again = Use(room.copy()), []
    for run, queue, key in queues.running(c, list(limits)):
        use.count(Waiting(run, queue, "", key, starts=False))
    for row in runs.get_runs(c, list(held)) if held else []:
        if row.state in _AT_REST:
            starts = row.state is RunState.QUEUED
            use.count(Waiting(row.id, row.queue, row.engine, row.queue_key, starts=starts))
    for name, each in limits.items():
        if each.rate is not None:
            recent = queues.starts_since(c, name, now - each.rate.per_s, each.rate.count)
            use.started[name] += len(recent)
            if len(recent) >= each.rate.count:
                again.append(recent[-1] + each.rate.per_s)
    return use, min(again, default=None)


def _candidates(
    c: Connection,
    wanting: Iterable[QueueRow],
    limits: Mapping[str, Limits],
    use: Use,
    needs: Needs,
    but: Collection[RunId],
) -> list[Waiting]:
    """Of each queue those that would go if it were the only one, and those that only lack room: no
    more of it need be read."""
    found: list[Waiting] = []
    for queue in wanting:
        found += _first(c, queue.name, limits, use.copy(), needs, but)
    return found


def _first(
    c: Connection,
    name: str,
    limits: Mapping[str, Limits],
    use: Use,
    needs: Needs,
    but: Collection[RunId],
) -> list[Waiting]:
    limit, engines = limits[name], sorted(use.room.engines)
    found: list[Waiting] = []
    while True:
        most = use.room.runs_left
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
        some = [_read(c, row, needs) for row in next_ones]
        before = len(use.room.reserved)
        chosen = {one.run for one in choose(some, limits, use)}
        large = {share.rank for share in use.room.reserved[before:]}
        seen = [one for one in some if one.run in chosen or one.share.rank in large]
        found += seen
        if not seen or len(use.room.reserved) >= LARGE_MAX:
            return found


def _read(c: Connection, row: Any, needs: Needs) -> Waiting:
    run, queue, engine, key, priority, state, version, parent = row
    starts, mib = state == RunState.QUEUED, needs.read(c, engine, version)
    return Waiting(RunId(run), queue, engine, key, priority, starts, mib, parent)


def _waiting(c: Connection, row: RunRow, needs: Needs) -> Waiting:
    starts, mib = row.state is RunState.QUEUED, needs.read(c, row.engine, row.version)
    return Waiting(
        row.id, row.queue, row.engine, row.queue_key, row.priority, starts, mib, row.parent
    )
