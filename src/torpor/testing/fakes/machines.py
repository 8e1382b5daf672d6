"""Machines without machines: what the control of machines asks of an engine, a pager and a store is
played here, each machine by a `Puppet`. What happens passes a *point* (`Surroundings.at`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from sqlalchemy import Connection

from torpor.core.errors import HostError, InternalError
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.engine import registry
from torpor.engine.memory import PageNumbers, Pages
from torpor.engine.protocol import Files, Regions, Shape
from torpor.engine.qemu import NAME as QEMU
from torpor.logstore.sqlite import SqliteStore
from torpor.machines.capture import Captured, Taken
from torpor.machines.host import Machines
from torpor.machines.live import Live
from torpor.snapshot.seal import Key
from torpor.testing.fakes.puppet import Object, Puppet, State
from torpor.wire import names

T = TypeVar("T")

MEMORY_PAGES = 256


class Surroundings(Protocol):
    """What machines need of the `World` they are in."""

    machines_started: list[PlayedMachine]
    let: set[str]
    lagging: bool
    timers: list[float]
    disk_full: bool
    engine_version: str

    async def at(self, point: str) -> None: ...

    def report(self, what: str, op: str) -> None: ...

    def refuses(self, t: str) -> bool: ...


class PlayedMachine:
    """See `torpor.engine.protocol.Machine`. Its guest reads at most `READ_BYTES` at a time."""

    READ_BYTES = 100
    _pids = itertools.count(1)

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.pid = next(self._pids)
        self.alive = True
        self.running = False
        self.spare = False  # a warm machine of no run: what it does is no point to act at
        self.puppet: Puppet | None = None
        self.link, self._inside = socket.socketpair()
        self.link.setblocking(False)
        self._inside.setblocking(False)
        self._unwritten = b""
        self._gone = asyncio.Event()
        self._stalled = asyncio.Event()

    @property
    def carries(self) -> bool:
        """It is a run's."""
        return self.alive and self.puppet is not None and not self.spare

    def boot(self) -> None:
        self.puppet = self._played(State(prepared=False))
        self.puppet.say(names.HELLO, protocol=1, python="3", kernel="6")
        self._run()

    async def load(self, device_state: bytes) -> None:
        await self._at("load")
        state = State.from_json(json.loads(device_state))
        if self.spare:
            self.puppet = Puppet(state, lambda *_: None, lambda t: False, lambda name: False)
        else:
            self.puppet = self._played(state)

    def _played(self, state: State) -> Puppet:
        world = self.world
        return Puppet(
            state,
            world.report,
            world.refuses,
            world.let.__contains__,
            lambda: world.lagging,
            world.timers,
        )

    async def forget(self, numbers: PageNumbers) -> None:
        self.spare = False
        await self._at("forget")

    async def become(self, numbers: PageNumbers, pages: Pages, device_state: bytes) -> None:
        await self._at("become")
        assert len(numbers) == len(pages) and not self.running
        await self.load(device_state)

    async def resume(self) -> None:
        await self._at("resume")
        self._stalled.clear()
        if self.world.disk_full and not self.spare:
            self._stalled.set()
            return
        self._run()

    def _run(self) -> None:
        self.running = True
        asyncio.get_running_loop().add_reader(self._inside, self._read)
        self._write()

    def play(self) -> None:
        """Something that the agent waits for inside the machine may have come."""
        if self.running and self.puppet is not None:
            self.puppet.play()
            self._write()

    async def pause(self) -> None:
        await self._at("pause")
        self._stand_still()
        if self.puppet is not None:
            self.puppet.clock_right = False
        await self._at("paused")

    def stall(self) -> None:
        """It writes to a disk that is full, `World.disk_full`."""
        self._stand_still()
        self._stalled.set()

    async def stalled(self) -> str:
        await self._stalled.wait()
        return "its disk is full"

    async def device_state(self) -> bytes:
        await self._at("device")
        assert self.puppet is not None and not self.running
        return json.dumps(self.puppet.to_json()).encode()

    def changed_memory(self) -> PageNumbers:
        return np.array([self.pid % MEMORY_PAGES], dtype=np.int64)

    def read_memory(self, numbers: PageNumbers, into: Pages) -> None:
        if self.running:
            raise InternalError("the memory of a machine that runs was read")
        into[:] = self.pid % 256

    def touched_memory(self) -> PageNumbers:
        return np.empty(0, dtype=np.int64)

    def cpu_s(self) -> float:
        return 0.0

    async def kill(self) -> None:
        if not self.spare:
            await self.world.at("kill")
        self.die()
        self.link.close()

    async def ended(self) -> str:
        await self._gone.wait()
        return "it was killed"

    def die(self) -> None:
        """At once, whatever it was doing."""
        if self.alive:
            self._stand_still()
            self.alive = False
            self._inside.close()
            self._gone.set()

    def _stand_still(self) -> None:
        if self.running:
            self.running = False
            asyncio.get_running_loop().remove_reader(self._inside)
            asyncio.get_running_loop().remove_writer(self._inside)

    async def _at(self, point: str) -> None:
        if not self.spare:
            await self.world.at(point)
        if not self.alive:
            raise HostError(f"the machine did not do {point!r}: it is gone")

    def _read(self) -> None:
        assert self.puppet is not None
        with contextlib.suppress(BlockingIOError):
            data = self._inside.recv(self.READ_BYTES)
            if not data:
                self._stand_still()
                return
            self.puppet.receive(data)
        self._write()

    def _write(self) -> None:
        assert self.puppet is not None
        self._unwritten += self.puppet.link.data_to_send()
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._inside.send(self._unwritten) :]
        loop = asyncio.get_running_loop()
        if self._unwritten:
            loop.add_writer(self._inside, self._write)
        else:
            loop.remove_writer(self._inside)


class PlayedEngine:
    """See `torpor.engine.protocol.Engine`. Machines are warmed up."""

    name = QEMU
    accel = why = "played"
    learns = True
    capabilities = registry.get(QEMU).capabilities
    regions = Regions("memory", "disk", "device")

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    def shape(self, *, memory_mib: int, disk_mib: int, image: str, deps: str) -> Shape:
        sizes = {"memory_mib": memory_mib, "disk_mib": disk_mib}
        return Shape(
            "played",
            self._world.engine_version,
            "none",
            "none",
            "none",
            image=image,
            deps=deps,
            **sizes,
        )

    async def start(self, shape: Shape, files: Files, directory: Path) -> PlayedMachine:
        machine = PlayedMachine(self._world)
        machine.spare = files.memory.parent.name == "flat"
        self._world.machines_started.append(machine)
        if files.kernel is not None:
            machine.boot()
        return machine


class PlayedPager:
    """What the control of machines asks of a `PagerClient`. Serves no memory: nobody reads it."""

    def __init__(self, home: Home) -> None:
        self.socket = home.socket("pager")
        self.slots: set[str] = set()
        self.failure: Exception | None = None
        self.reads = 42
        self._server: asyncio.Server | None = None

    async def serve(self) -> None:
        async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.closing(writer):
                await reader.read()

        self._server = await asyncio.start_unix_server(hold, self.socket)

    async def create(self, slot: str, memory: int, disk: int) -> None:
        self._ask()
        self.slots.add(slot)

    async def bind(
        self, slot: str, manifest: str, *, hot: bool = True, key: Key | None = None
    ) -> Object:
        self._ask()
        return {"pushed": 0, "push_ms": 0.0}

    async def dirty(self, slot: str) -> Object:
        self._ask()
        return {"pages": [], "overlay": "/dev/null"}

    async def stats(self, slot: str | None = None) -> Object:
        self._ask()
        return {"reads": self.reads, "faults": [], "damage": None}

    async def drop(self, slot: str) -> None:
        self._ask()
        self.slots.discard(slot)

    async def readahead(self, kb: int) -> None:
        self._ask()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()

    def _ask(self) -> None:
        if self.failure is not None:
            raise self.failure


class WatchedStore(SqliteStore):
    world: Surroundings | None = None

    async def write(self, fn: Callable[[Connection], T]) -> T:
        if self.world is not None:
            await self.world.at("write")
        value = await super().write(fn)
        if self.world is not None:
            await self.world.at("written")
        return value

    async def write_unseen(self, fn: Callable[[Connection], T]) -> T:
        return await super().write(fn)


class WatchedMachines(Machines):
    world: Surroundings

    async def keep(
        self,
        live: Live,
        taken: Taken,
        hot: PageNumbers | None = None,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> Captured:
        await self.world.at("keep")
        captured = await super().keep(live, taken, hot, goes_on)
        await self.world.at("kept")
        return captured

    async def discard(self, live: Live) -> None:
        await super().discard(live)
        await self.world.at("dropped")


class Drivers(dict[RunId, Any]):
    """Tells when one goes."""

    def __init__(self) -> None:
        self.went = asyncio.Event()

    def pop(self, *key: Any) -> Any:
        self.went.set()
        return super().pop(*key)
