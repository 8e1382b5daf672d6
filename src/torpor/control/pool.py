"""Empty machines that wait to be given a snapshot.

Starting QEMU takes 30 to 60 ms of a resume, and none of it depends on what is resumed: so for
each shape that was used lately one machine is kept started on a slot of the pager whose content
is bound when it is taken. An empty machine belongs to no run and has read no guest memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

from torpor.engine.protocol import Engine, Files, Machine, Shape
from torpor.model.errors import TorporError
from torpor.model.home import Home
from torpor.pager.client import PagerClient

# One waiting machine of each of the shapes used last.
SHAPES_MAX = 3
IDLE_MAX_S = 600.0


@dataclass(frozen=True)
class Empty:
    name: str
    machine: Machine
    directory: Path


class Pool:
    def __init__(self, home: Home, engine: Engine, pager: PagerClient) -> None:
        self._home = home
        self._engine = engine
        self._pager = pager
        self._ready: OrderedDict[Shape, asyncio.Task[Empty]] = OrderedDict()
        self._used: dict[Shape, float] = {}
        self._names = itertools.count(1)
        self._closed = False

    def new_name(self) -> str:
        """A name for a machine's slot and directory, not used before on this host."""
        return f"m{os.getpid()}-{next(self._names)}"

    def deps_path(self, shape: Shape) -> Path | None:
        return self._home.deps / shape.deps / "deps.erofs" if shape.deps else None

    async def take(self, shape: Shape) -> Empty:
        """An empty machine of this shape, the waiting one if there is one."""
        self._used[shape] = time.monotonic()
        waiting = self._ready.pop(shape, None)
        if waiting is not None:
            with contextlib.suppress(TorporError, OSError):
                empty = await waiting
                if empty.machine.alive:
                    return empty
                await self.discard(empty)
        return await self.start(shape)

    def refill(self, shape: Shape) -> None:
        """Start the next one in the background, when nobody waits for this host to be quick."""
        if self._closed or shape in self._ready:
            return
        self._used[shape] = time.monotonic()
        self._ready[shape] = asyncio.create_task(self.start(shape))
        while len(self._ready) > SHAPES_MAX:
            self._drop(next(iter(self._ready)))

    async def settled(self) -> None:
        """Wait until none is being started: each waits, or could not be started."""
        await asyncio.gather(*self._ready.values(), return_exceptions=True)

    def drop_idle(self) -> None:
        for shape in list(self._ready):
            if time.monotonic() - self._used[shape] > IDLE_MAX_S:
                self._drop(shape)

    async def forget(self) -> None:
        """End all that wait."""
        ready, self._ready = self._ready, OrderedDict()
        await asyncio.gather(*(self._end(task) for task in ready.values()))

    async def close(self) -> None:
        self._closed = True
        await self.forget()

    async def discard(self, empty: Empty) -> None:
        await empty.machine.kill()
        with contextlib.suppress(TorporError, OSError):
            await self._pager.drop(empty.name)
        await asyncio.to_thread(shutil.rmtree, empty.directory, ignore_errors=True)

    def _drop(self, shape: Shape) -> None:
        asyncio.create_task(self._end(self._ready.pop(shape)))  # noqa: RUF006

    async def _end(self, task: asyncio.Task[Empty]) -> None:
        with contextlib.suppress(TorporError, OSError):
            await self.discard(await task)

    async def start(self, shape: Shape) -> Empty:
        """A new empty machine."""
        name = self.new_name()
        directory = self._home.machines / name
        directory.mkdir(parents=True)
        try:
            await self._pager.create(name, memory=shape.memory_mib << 20, disk=shape.disk_mib << 20)
            slot = self._home.mount / name
            files = Files(
                slot / "memory",
                slot / "disk",
                self._home.images / shape.image / "root.erofs",
                self.deps_path(shape),
            )
            return Empty(name, await self._engine.start(shape, files, directory), directory)
        except BaseException:
            with contextlib.suppress(TorporError, OSError):
                await self._pager.drop(name)
            shutil.rmtree(directory, ignore_errors=True)
            raise
