"""Machines that wait to be given a snapshot.

Two kinds, one of each for what was used lately:

- an *empty* machine of a shape: started on a slot of the pager whose content is bound when it is
  taken. It belongs to no run and has read no guest memory. Starting QEMU takes 30 to 60 ms of a
  resume, and none of it depends on what is resumed.
- a *warm* machine of an agent's version (`torpor.machines.warm`): it stands on the version's
  template, and has been through a thaw and a freeze of that already.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.engine.protocol import Engine, Files, Machine, Shape
from torpor.pager.client import PagerClient

# One waiting machine of each of the kinds used last.
SPARES_MAX = 3
IDLE_MAX_S = 600.0


class Spare(Protocol):
    @property
    def alive(self) -> bool: ...

    async def discard(self) -> None: ...


@dataclass(frozen=True)
class Empty:
    """A machine on a slot of the pager, and maybe on a file for its memory."""

    name: str
    machine: Machine
    directory: Path
    pager: PagerClient

    @property
    def alive(self) -> bool:
        return self.machine.alive

    async def discard(self) -> None:
        await self.machine.kill()
        with contextlib.suppress(TorporError, OSError):
            await self.pager.drop(self.name)
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)


K = TypeVar("K")
S = TypeVar("S", bound=Spare)


class Spares(Generic[K, S]):
    """At most one spare for each key, of the `most` keys used last, made in the background."""

    def __init__(self, most: int = SPARES_MAX) -> None:
        self._most = most
        self._ready: OrderedDict[K, asyncio.Task[S]] = OrderedDict()
        self._used: dict[K, float] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def take(self, key: K, *, wait: bool) -> S | None:
        """The spare, if there is one that lives; one that is still being made only with `wait`."""
        self._used[key] = time.monotonic()
        making = self._ready.get(key)
        if making is None or not (making.done() or wait):
            return None
        del self._ready[key]
        with contextlib.suppress(TorporError, OSError):
            spare = await making
            if spare.alive:
                return spare
            await spare.discard()
        return None

    def put_back(self, key: K, spare: S) -> None:
        """One that was taken and not used."""

        async def itself() -> S:
            return spare

        self.refill(key, itself)

    def refill(self, key: K, make: Callable[[], Awaitable[S]]) -> None:
        """Make one in the background, when nobody waits for this host to be quick."""
        if self._closed or key in self._ready:
            return
        self._used[key] = time.monotonic()
        self._ready[key] = asyncio.ensure_future(make())
        while len(self._ready) > self._most:
            self._drop(next(iter(self._ready)))

    @property
    def waiting(self) -> int:
        """How many wait, or are being started for that."""
        return len(self._ready)

    async def settled(self) -> None:
        """Wait until none is being made: each waits, or could not be made."""
        await asyncio.gather(*self._ready.values(), return_exceptions=True)

    def drop_idle(self) -> None:
        for key in list(self._ready):
            if time.monotonic() - self._used[key] > IDLE_MAX_S:
                self._drop(key)

    async def forget(self) -> None:
        """End all that wait."""
        ready, self._ready = self._ready, OrderedDict()
        await asyncio.gather(*(self._end(task) for task in ready.values()))

    async def close(self) -> None:
        self._closed = True
        await self.forget()
        await asyncio.gather(*self._ending)

    def _drop(self, key: K) -> None:
        ending = asyncio.create_task(self._end(self._ready.pop(key)))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _end(self, task: asyncio.Task[S]) -> None:
        with contextlib.suppress(TorporError, OSError):
            await (await task).discard()


_names = itertools.count(1)


def new_name() -> str:
    """A name for a machine's slot and directory, not used before on this host."""
    return f"m{os.getpid()}-{next(_names)}"


class Pool:
    """Starts machines, and keeps empty ones."""

    def __init__(self, home: Home, engine: Engine, pager: PagerClient) -> None:
        self.empties: Spares[Shape, Empty] = Spares()
        self._home = home
        self._engine = engine
        self._pager = pager

    def deps_path(self, shape: Shape) -> Path | None:
        return self._home.deps / shape.deps / "deps.erofs" if shape.deps else None

    async def take(self, shape: Shape) -> Empty:
        """An empty machine of this shape, the waiting one if there is one."""
        return await self.empties.take(shape, wait=True) or await self.start(shape)

    def refill(self, shape: Shape) -> None:
        self.empties.refill(shape, lambda: self.start(shape))

    async def start(self, shape: Shape, memory: Path | None = None) -> Empty:
        """A new empty machine. Its memory is the file `memory`, or its slot's."""
        name = new_name()
        directory = self._home.machines / name
        directory.mkdir(parents=True)
        slot_bytes = 0 if memory else shape.memory_mib << 20
        try:
            await self._pager.create(name, memory=slot_bytes, disk=shape.disk_mib << 20)
            slot = self._home.mount / name
            files = Files(
                memory or slot / "memory",
                slot / "disk",
                self._home.images / shape.image / "root.erofs",
                self.deps_path(shape),
            )
            machine = await self._engine.start(shape, files, directory)
            return Empty(name, machine, directory, self._pager)
        except BaseException:
            with contextlib.suppress(TorporError, OSError):
                await self._pager.drop(name)
            shutil.rmtree(directory, ignore_errors=True)
            raise
