"""`torpor bench control`: what the control plane costs, by itself and with many runs asleep.

    a stage    appends of many writers, starts, and waits whose answers wake their runs, by the
               engine `process`
    a server   of its own, on a log with many runs that sleep: what it takes idle, a page of runs,
               and its timers all at once; nothing resumes there, as no slot is free for that
    another    what it takes of memory after many runs, and while much is frozen

Times are those that the log holds where it holds them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.bench import footprint
from torpor.bench.controlbars import Measured, figures
from torpor.bench.stage import Stage, perform, report
from torpor.blobs.local import LocalBlobs
from torpor.client import Client, ensure_server, stop_server
from torpor.contextlog import entries, runs, waits
from torpor.contextlog.entries import EntryRow, NewEntry, read_entries
from torpor.contextlog.news import Answered, News
from torpor.control.scheduler.scheduler import Scheduler
from torpor.control.service.service import Service
from torpor.core.errors import InternalError
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.states import RunState
from torpor.core.workers import Worker
from torpor.egress.client import BrokerClient
from torpor.engine import process
from torpor.logstore.sqlite import SqliteStore
from torpor.project.reading import read_agent
from torpor.service.waits import WaitFilter
from torpor.snapshot.store import SnapshotStore
from torpor.worker.authorities import Authorities
from torpor.worker.commands import Commands
from torpor.worker.metrics import Metrics
from torpor.worker.parts import Shared
from torpor.worker.sealing import SealingKeys
from torpor.worker.values import Values

AGENT = Path(__file__).with_name("working.py")
WRITERS, APPENDS = 32, 20_000
STARTS, WAKES = 40, 30
TIMERS, DUE_IN_S = 1000, 30.0
PAGES, PAGE = 20, 50
SETTLE_S, IDLE_S = 5.0, 20.0
_LIMIT_S = 120.0
_AT_ONCE = 500


@dataclass(frozen=True)
class Sizes:
    sleeping: int  # runs
    runs: int  # of the engine `process`, for a server's memory
    machine_runs: int  # 0: no machines


def main(sizes: Sizes, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. Raises TorporError."""
    began = time.perf_counter()
    found = figures(perform(lambda stage: _measure(stage, sizes)))
    took_s = time.perf_counter() - began
    report(found, f"; {took_s:.0f} s.", as_json=as_json, took_s=round(took_s, 1))
    return 0


async def _measure(stage: Stage, sizes: Sizes) -> Measured:
    sleeping = sizes.sleeping
    version = await _deployed(stage.service)
    stage.tell(f"appends of {WRITERS} writers")
    appends_per_s = await _appends_per_s(stage.store, version)
    stage.tell("starts")
    start_ms = await _start_ms(stage, version)
    stage.tell("waking")
    wake_ms = await _wake_ms(stage, version)
    home = Home(stage.home.root / "many").create()
    stage.tell(f"{sleeping:,} runs fall asleep")
    await _populate(home, sleeping)
    stage.tell("an idle server")
    idle = await asyncio.to_thread(_idle, home)
    stage.tell(f"{TIMERS:,} timers")
    late_ms = await _timers_late_ms(home)
    taken = await asyncio.to_thread(
        footprint.measure,
        Home(stage.home.root / "memory"),
        stage.home,
        sizes.runs,
        sizes.machine_runs,
        stage.tell,
    )
    return Measured(
        writers=WRITERS,
        appends=APPENDS,
        appends_per_s=appends_per_s,
        start_ms=start_ms,
        wake_ms=wake_ms,
        sleeping=sleeping,
        idle_cpu_share=idle.cpu_share,
        idle_bytes=idle.bytes,
        page_ms=idle.page_ms,
        timers=TIMERS,
        timers_late_ms=late_ms,
        memory=taken,
    )


async def _deployed(service: Service) -> AgentVersion:
    deployed = await service.agents.deploy(read_agent(AGENT), _unheard, process.NAME)
    return AgentVersion(deployed["version"])


def _unheard(stage: str, message: str, fraction: float | None) -> None:
    pass


async def _appends_per_s(store: SqliteStore, version: AgentVersion) -> float:
    """Each writer has a run of its own and appends its next entry once the last is durable."""
    note = NewEntry("note.log", None, {"message": "x" * 100})

    async def write(number: int) -> None:
        run, epoch = await store.write(partial(_claimed, version=version))
        for _ in range(APPENDS // WRITERS):
            await store.write(lambda c: entries.append(c, run, epoch, [note], time.time()))
        await store.write(lambda c: runs.transition(c, run, epoch, RunState.CANCELLED, time.time()))

    began = time.perf_counter()
    await asyncio.gather(*(write(number) for number in range(WRITERS)))
    return APPENDS / (time.perf_counter() - began)


def _claimed(c: Connection, version: AgentVersion) -> tuple[RunId, Any]:
    row = runs.create_run(c, version=version, agent="wake", input={"times": 1}, now=time.time())
    return row.id, runs.claim(c, row.id, time.time())


async def _start_ms(stage: Stage, version: AgentVersion) -> list[float]:
    """From asking until the run is durable, while nothing else is going on."""
    taken = []
    for _ in range(STARTS):
        began = time.perf_counter()
        run = await stage.start(version, "doze", times=0, duration_s=0)
        taken.append((time.perf_counter() - began) * 1000)
        await _until(stage.store, run, lambda row: row.state is RunState.COMPLETED)
    return taken


async def _wake_ms(stage: Stage, version: AgentVersion) -> list[float]:
    """From the answer of a wait, whose run is asleep, until its resume has begun."""
    asleep = [await stage.start(version, "wake", times=1) for _ in range(WAKES)]
    taken = []
    for run in asleep:
        await _until(stage.store, run, lambda row: row.state is RunState.SUSPENDED)
    for run in asleep:
        (wait,) = await stage.service.waits.list(WaitFilter(run))
        began = time.time()
        await stage.answer(wait["id"])
        resumed = await _entry(stage.store, run, 0, "run.resumed")
        taken.append((resumed.at - began) * 1000)
        await _until(stage.store, run, lambda row: row.state is RunState.COMPLETED)
    return taken


async def _entry(store: SqliteStore, run: RunId, after: int, kind: str) -> EntryRow:
    """The run's next entry of that kind, once there is one."""
    async with asyncio.timeout(_LIMIT_S):
        with store.subscribe(run) as subscription:
            while True:
                found = await store.read(partial(read_entries, run=run, after=after, kinds=[kind]))
                if found:
                    return found[0]
                await subscription.wait()


async def _until(store: SqliteStore, run: RunId, seen: Callable[[Any], bool]) -> None:
    async with asyncio.timeout(_LIMIT_S):
        with store.subscribe(run) as subscription:
            while not seen(row := await store.read(lambda c: runs.get_run(c, run))):
                if row.state is RunState.FAILED:
                    raise InternalError(f"the run failed: {row.error}")
                await subscription.wait()


# Many that sleep.


async def _populate(home: Home, sleeping: int) -> None:
    """A log of so many runs, each asleep in its first wait, some until the same second."""
    store = await asyncio.to_thread(SqliteStore.open, home.database)
    service = Service(home, store)
    try:
        version = await _deployed(service)
        await _put_to_sleep(store, version, sleeping, None)
    finally:
        await service.stop()


async def _put_to_sleep(
    store: SqliteStore, version: AgentVersion, count: int, due_at: float | None
) -> None:
    def write(c: Connection, some: int) -> None:
        for _ in range(some):
            _fall_asleep(c, version, due_at)

    for done in range(0, count, _AT_ONCE):
        await store.write(partial(write, some=min(_AT_ONCE, count - done)))


def _fall_asleep(c: Connection, version: AgentVersion, due_at: float | None) -> None:
    run, epoch = _claimed(c, version)
    now = time.time()
    kind = "wait" if due_at is None else "sleep"
    named = {"op": OpId(f"{kind}:turn 0#1"), "name": "turn 0", "digest": "0" * 32, "kind": kind}
    waits.create_wait(c, run, epoch, waits.NewWait(**named, prompt="turn 0", due_at=due_at), now)  # type: ignore[arg-type]
    last = runs.get_run(c, run).last_seq
    runs.suspend(c, run, epoch, now, runs.Suspension(seen=last))


@dataclass(frozen=True)
class _Idle:
    cpu_share: float  # of one core
    bytes: int
    page_ms: list[float]


def _idle(home: Home) -> _Idle:
    """A server on this log, left alone, and then asked for pages of runs."""
    client = ensure_server(home)
    try:
        pid = int(client.health()["pid"])
        time.sleep(SETTLE_S)
        before, began = footprint.cpu_s(pid), time.perf_counter()
        time.sleep(IDLE_S)
        share = (footprint.cpu_s(pid) - before) / (time.perf_counter() - began)
        taken = footprint.resident(pid)
        return _Idle(share, taken, [_page_ms(client) for _ in range(PAGES)])
    finally:
        stop_server(home)


def _page_ms(client: Client) -> float:
    began = time.perf_counter()
    if len(client.runs(limit=PAGE)) != PAGE:
        raise InternalError("the server does not list its runs")
    return (time.perf_counter() - began) * 1000


async def _timers_late_ms(home: Home) -> float:
    """How late the last of many timers ends its wait that were all due at once."""
    store = await asyncio.to_thread(SqliteStore.open, home.database)
    scheduler = _without_engines(home, store)
    try:
        version = (await store.read(lambda c: runs.list_runs(c, None, 1, None)))[0].version
        due_at = time.time() + DUE_IN_S
        await _put_to_sleep(store, version, TIMERS, due_at)
        ended, all_ended = 0, asyncio.Event()

        def hear(news: News) -> None:
            nonlocal ended
            ended += isinstance(news, Answered)
            if ended == TIMERS:
                all_ended.set()

        store.listen(hear)
        scheduler.start()
        async with asyncio.timeout(_LIMIT_S):
            await all_ended.wait()
        return (time.time() - due_at) * 1000
    finally:
        await scheduler.stop()
        await asyncio.to_thread(store.close)


def _without_engines(home: Home, store: SqliteStore) -> Scheduler:
    """Timers and claims as in a server, and no engine that has room."""
    keys = SealingKeys(home, store, on=False)
    blobs = SnapshotStore(LocalBlobs(home.blobs), lambda image: home.images / image / "root.erofs")
    values = Values(blobs.blobs, home.run, store, keys)
    given = (store, BrokerClient.of(home), keys, Authorities(store, keys), values)
    shared = Shared(*given, Metrics(), Commands())
    return Scheduler(shared, Worker.of(home))
