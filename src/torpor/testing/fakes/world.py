"""Scheduler and drivers over the real log, real snapshots on disk and real links, with machines
that are played by a `Puppet` each, and a hand on everything that happens.

Whatever waits for something outside the driver passes a *point* (`World.at`): there a test may
answer, kill, cancel, or make it fail.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import Connection

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import agents, entries, runs, snapshots, waits
from torpor.contextlog.entries import EntryRow
from torpor.contextlog.news import Claimable, report
from torpor.contextlog.runs import RunRow
from torpor.contextlog.waits import WaitRow
from torpor.control.scheduler.scheduler import Scheduler
from torpor.control.service.execs import Execs
from torpor.core.agentfile import AgentSource
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import NotFound
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, RunId
from torpor.core.limits import ServerLimits
from torpor.core.states import FINAL, RunState
from torpor.core.workers import Worker
from torpor.egress.upstream import Request
from torpor.engine.memory import PAGE
from torpor.engine.qemu import NAME as QEMU
from torpor.image.build import Image
from torpor.machines.sparse import whole
from torpor.policy import freeze
from torpor.policy.admission import Capacity
from torpor.snapshot.build import Changed, build
from torpor.snapshot.store import SnapshotStore
from torpor.testing.fakes.broker import PlayedBroker, PlayedUpstream, Reply
from torpor.testing.fakes.machines import (
    MEMORY_PAGES,
    Drivers,
    PlayedEngine,
    PlayedMachine,
    PlayedPager,
    WatchedMachines,
    WatchedStore,
)
from torpor.testing.fakes.puppet import Object, State
from torpor.wire.link import Link
from torpor.worker.authorities import Authorities
from torpor.worker.commands import Commands
from torpor.worker.loading import tar_of
from torpor.worker.metrics import Metrics
from torpor.worker.onmachines import MachineCarriers
from torpor.worker.onprocesses import ProcessCarriers
from torpor.worker.parts import Shared
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys
from torpor.worker.templates import Templates
from torpor.worker.values import Values

T = TypeVar("T")
Act = Callable[[], Awaitable[None]]

VERSION = AgentVersion("a" * 32)
SOURCE = AgentSource(
    "agent.py",
    {"agent.py": b"import torpor\n@torpor.agent\ndef main(): ..."},
    memory_mib=1,
    disk_mib=1,
)
SPEC: Object = {
    "dependencies": [],
    "memory_mib": 1,
    "disk_mib": 1,
    "keep": "",
    "on_divergence": "stop",
    "image": "i" * 32,
    "default": None,
}
# No page of the kernel's file is known in memory.
IMAGE_FACTS = {"kernel_memory": {"first_page": 0, "pages": 0, "at": 0}}
STUCK_S = 10.0
FREEZING = ("pause", "paused", "device", "keep", "kept", "kill", "dropped")
POINTS = ("load", "forget", "become", "resume", "model", *FREEZING, "write", "written")


# Nothing is waited for that is only there to be patient, and nothing is found by chance.
QUICK = ServerLimits(
    freeze_retry_s=0.0,
    full_disk_write_retry_s=0.0,
    host_retry_s=(0.0,) * 3,
    safety_net_s=3600.0,
    lease_s=7200.0,
    renew_s=3600.0,
)


# A server in the test's data directory, whose store is there.
ALONE = Worker("test", alone=True)
AMPLE = Capacity(mib=1 << 20, runs=16)


class World:
    def __init__(
        self,
        home: Home,
        limits: ServerLimits = QUICK,
        clock: Clock = SYSTEM_CLOCK,
        worker: Worker = ALONE,
    ) -> None:
        self.home = home.create()
        self.limits, self.clock, self.worker = limits, clock, worker
        self.terms = replace(freeze.MACHINE, grace_s=0.0, worth_s=0.0)
        self.effects: Counter[str] = Counter()  # bodies of steps that ran
        self.recorded: set[str] = set()  # steps whose agent was told that their end is in the log
        self.let: set[str] = set()  # steps at work that may end
        self.refused: Counter[str] = Counter()  # messages to be refused, and how often yet
        self.timers: list[float] = []  # agents' own, until they are due, one for each freeze
        self.lagging = False  # guests are slow: who was answered does not go on yet
        self.patience: asyncio.Queue[None] = asyncio.Queue()  # a freeze was refused for that
        self.machines_started: list[PlayedMachine] = []
        self.acts: dict[str, deque[Act | None]] = {}
        self.passed: Counter[str] = Counter()
        self.anywhere: Callable[[str], Awaitable[None]] | None = None
        self.pager = PlayedPager(home)
        self.upstream = PlayedUpstream(self._answer)
        self.broker = PlayedBroker(self.upstream)
        self.answers: bytes = b"{}"  # the model
        self.metrics = Metrics()
        self.disk_full = False
        self.engine_version = "1"
        self.sealing = True  # what a server that starts is told of new runs
        store = WatchedStore.open(home.database)
        assert isinstance(store, WatchedStore)
        self.store = store
        self.scheduler: Scheduler

    async def __aenter__(self) -> World:
        await self.pager.serve()
        await self.broker.client.connect()
        image = Image("i" * 32, self.home.images / ("i" * 32))
        image.directory.mkdir(parents=True, exist_ok=True)
        image.root.write_bytes(b"of the image".ljust(4096, b"."))
        (image.directory / "image.json").write_text(json.dumps(IMAGE_FACTS))
        (image.directory / "disk-1.ext4").write_bytes(bytes(1 << 20))
        blobs = SnapshotStore(
            LocalBlobs(self.home.blobs), lambda image: self.home.images / image / "root.erofs"
        )
        machines: Any = WatchedMachines(self.home, blobs, PlayedEngine(self), image, self.pager)  # type: ignore[arg-type]
        machines.world = self
        self.machines: WatchedMachines = machines
        await self._deploy()
        self.store.world = self
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.anywhere = None
        self.acts.clear()
        await self.stop()
        await self.broker.close()
        await self.pager.close()
        self.store.close()

    async def start(self) -> None:
        """A server starts."""
        self.machines.pool.empties._closed = self.machines.warm._closed = False
        keys = SealingKeys(self.home, self.store, on=self.sealing)
        values = Values(self.machines.store.blobs, self.home.run, self.store, keys)
        commands = Commands()
        time = (self.clock, self.limits)
        self.authorities = Authorities(self.store, keys, self.clock)
        given = (self.store, self.broker.client, keys, self.authorities, values)
        shared = Shared(*given, self.metrics, commands, *time)
        self.scheduler = Scheduler(shared, self.worker, capacity=AMPLE)
        self.execs = Execs(self.store, WorldEngines(self), commands, self.clock)
        self.scheduler.drivers = Drivers()
        self.scheduler.start()
        files = RunFiles(self.machines.store.blobs, self.store, keys, self.clock, self.limits)
        templates = Templates(self.machines, self.store, self.authorities, *time)
        self.carriers = MachineCarriers(
            self.machines, self.store, files, templates, self.clock, self.limits, self.terms
        )
        await self.scheduler.serve(QEMU, self.carriers)

    async def stop(self) -> None:
        await self.execs.stop()
        await self.scheduler.stop()
        # As when a server closes its log: a write that it had begun is done, or not, before the
        # next one looks.
        await self.store.write_unseen(lambda c: None)

    async def hand_over(self) -> list[str]:
        """A server stops as it is asked to; how that went, in its words."""
        progress: list[str] = []
        self.execs.leave()
        await self.scheduler.hand_over(progress.append)
        await self.stop()
        assert not any(machine.alive for machine in self.machines_started)
        return progress

    @property
    def requests(self) -> list[str]:
        """What the model was asked."""
        return [request.query for request in self.upstream.requests]

    async def _answer(self, request: Request) -> Reply:
        await self.at("model")
        return Reply(200, {}, self.answers)

    # What machines and store pass.

    async def at(self, point: str) -> None:
        self.passed[point] += 1
        acts = self.acts.get(point)
        if acts and (act := acts.popleft()) is not None:
            await act()
        if self.anywhere is not None:
            await self.anywhere(point)

    def on(self, point: str, *acts: Act | None) -> None:
        """Do these, one a time, when `point` is passed from now on; None does nothing."""
        self.acts.setdefault(point, deque()).extend(acts)

    def report(self, what: str, op: str) -> None:
        if what == "refused":
            self.patience.put_nowait(None)
        elif what == "recorded":
            self.recorded.add(op)
        else:
            assert op not in self.recorded, f"{op} ran again though its result was recorded"
            self.effects[op] += 1

    def refuses(self, t: str) -> bool:
        if not self.refused[t]:
            return False
        self.refused[t] -= 1
        return True

    # What people do.

    async def run(self, *threads: Sequence[Sequence[Any]]) -> RunId:
        await self.machines.settled()
        self.effects.clear()
        self.recorded.clear()
        created = await self.store.write(
            lambda c: runs.create_run(
                c, version=VERSION, agent=None, input={"threads": threads}, now=self.clock.now()
            )
        )
        return created.id

    @property
    def slots(self) -> int:
        """How many machines this server may have at once. Memory there is enough."""
        return self.scheduler.capacity.runs

    @slots.setter
    def slots(self, slots: int) -> None:
        self.scheduler.capacity = replace(AMPLE, runs=slots)

    async def have_room(self, room: int) -> None:
        """For so many machines, which the scheduler is told as news."""
        self.slots = room
        await self.store.write_unseen(lambda c: report(c, Claimable()))

    async def answer(self, op: str, data: Any = "yes") -> None:
        """As `Service.complete` does."""

        def write(c: Connection) -> None:
            wait = next((wait for wait in waits.list_waits(c) if wait.op == op), None)
            if wait is None:
                raise NotFound(f"there is no wait for {op}")
            waits.complete_wait(c, wait.id, value={"data": data}, now=self.clock.now())

        await self.store.write_unseen(write)

    def let_end(self, op: str) -> None:
        """The body of a step that is at work ends."""
        self.let.add(op)
        for machine in self.machines_started:
            machine.play()

    def catch_up(self) -> None:
        self.lagging = False
        for machine in self.machines_started:
            machine.play()

    async def kill(self) -> None:
        """The newest machine that runs, or is being captured, is gone."""
        for machine in reversed(self.machines_started):
            if machine.carries:
                machine.die()
                return

    # What there is to see.

    async def row(self, run: RunId) -> RunRow:
        return await self.store.read(lambda c: runs.get_run(c, run))

    async def entries(self, run: RunId, kind: str | None = None) -> list[EntryRow]:
        kinds = None if kind is None else [kind]
        return await self.store.read(lambda c: entries.read_entries(c, run, 0, kinds, 10_000))

    async def until(self, run: RunId, seen: Callable[[RunRow], bool]) -> RunRow:
        """Fails, showing the log, when the run is stuck."""
        with self.store.subscribe(run) as subscription:
            try:
                async with asyncio.timeout(STUCK_S):
                    while not seen(row := await self.row(run)):
                        await subscription.wait()
                    return row
            except TimeoutError as error:
                log = [(e.seq, e.kind, e.op, e.data) for e in await self.entries(run)]
                text = "\n".join(map(str, log[-40:]))
                raise AssertionError(
                    f"the run is stuck as {await self.row(run)}\n{text}"
                ) from error

    async def ended(self, run: RunId) -> RunRow:
        """As it ended; its log is checked."""
        row = await self.until(run, lambda row: row.state in FINAL)
        await self.gone(run)
        await self._check_log(run)
        return row

    async def gone(self, run: RunId) -> None:
        """Its driver."""
        drivers = self.scheduler.drivers
        assert isinstance(drivers, Drivers)
        async with asyncio.timeout(STUCK_S):
            while run in drivers:
                drivers.went.clear()
                await drivers.went.wait()

    async def _check_log(self, run: RunId) -> None:
        log = await self.entries(run)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        epochs = [entry.epoch for entry in log if entry.epoch is not None]
        assert epochs == sorted(epochs)  # rule 4
        for kind in ("op.begin", "op.end"):  # rule 2
            ops = [entry.op for entry in log if entry.kind == kind]
            assert len(ops) == len(set(ops)), ops
        assert log[-1].kind in ("run.completed", "run.failed", "run.cancelled")
        assert not await self.store.read(lambda c: waits.list_waits(c, run))  # rule 11

    async def asleep(self, run: RunId) -> None:
        """Suspended, its machine gone, the next ready, with nothing left to do."""

        def seen(row: RunRow) -> bool:
            return row.state is RunState.SUSPENDED and not row.ready

        await self.until(run, seen)
        await self.gone(run)
        await self.machines.settled()
        assert seen(await self.row(run))

    async def begun(self, run: RunId, op: str) -> None:
        """Once the log has that `op` began."""

        async def seen() -> bool:
            return any(entry.op == op for entry in await self.entries(run, "op.begin"))

        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(STUCK_S):
                while not await seen():
                    await subscription.wait()

    async def up(self, run: RunId, count: int) -> None:
        """Once its machine is up, the `count`th."""
        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(STUCK_S):
                while len(await self.entries(run, "machine.up")) < count:
                    await subscription.wait()

    async def open_waits(self, run: RunId, count: int = 1) -> list[WaitRow]:
        """Once it has so many."""
        found: list[WaitRow] = []

        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(STUCK_S):
                while len(found) < count:
                    found = await self.store.read(lambda c: waits.list_waits(c, run))
                    if len(found) < count:
                        await subscription.wait()
        return found

    async def output(self, run: RunId) -> str:
        return "".join(entry.data["text"] for entry in await self.entries(run, "output"))

    async def _deploy(self) -> None:
        """An agent whose template is a supervisor that has done nothing yet."""
        shape = self.machines.shape(memory_mib=1, disk_mib=1, deps="")
        state = json.dumps(State().__dict__ | {"threads": []}).encode()
        empty = Changed.at_hand(
            MEMORY_PAGES * PAGE, np.empty(0, np.int64), np.empty((0, PAGE), np.uint8)
        )
        built = build(
            None,
            None,
            {"memory": empty, "disk": empty, "device": whole(state)},
            hot=np.empty(0, dtype=np.int64),
            facts={"shape": shape.facts()},
            dedup=None,
        )
        stored = self.machines.store.put(built)

        def write(c: Connection) -> None:
            agents.put_agent(
                c,
                agents.NewAgent(
                    engine=QEMU,
                    version=VERSION,
                    name="a",
                    entry=SOURCE.entry,
                    source=tar_of(SOURCE),
                    spec=SPEC,
                ),
                1.0,
            )
            template = snapshots.record_snapshot(
                c,
                snapshots.NewSnapshot(
                    version=VERSION,
                    manifest=stored.manifest_digest,
                    bytes=stored.bytes,
                    pause_ms=1.0,
                    freeze_ms=1.0,
                    created_at=1.0,
                    link=Link().state().to_json(),
                ),
            )
            agents.set_template(c, VERSION, template.id, boot_ms=1.0, template_bytes=1)

        await self.store.write(write)


class WorldEngines:
    """What `torpor.control.service.execs` needs of the engines."""

    def __init__(self, world: World) -> None:
        self._world = world

    @property
    def scheduler(self) -> Scheduler:
        return self._world.scheduler

    async def processes(self, engine: str) -> ProcessCarriers:
        raise AssertionError("there are only machines here")

    def ready_soon(self, engine: str) -> None: ...


class Nth:
    """Does something when `point` is passed the nth time; `reached` says whether it was."""

    def __init__(
        self, world: World, point: str, n: int, act: Callable[[], Awaitable[None]]
    ) -> None:
        self.point, self.left, self.act, self.reached = point, n, act, False
        world.anywhere = self

    async def __call__(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left == 0:
                self.reached = True
                await self.act()


class Calls:
    """Model calls that are held until they are let go."""

    def __init__(self, world: World) -> None:
        self.begun, self.go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            self.begun.set()
            await self.go.wait()

        world.on("model", hold)
