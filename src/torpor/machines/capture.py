"""Snapshots of machines: what one pause takes (rule 7), and its way into the store (rule 5).

In the pause belongs what cannot be read later: the state of the devices, and which pages of memory
and disk changed. The pages themselves stay where they are, in the machine and in its disk's file,
as long as it stands still, and are read there when the snapshot is made. So a freeze copies
nothing. If the machine is to go on first, as after a checkpoint, they are copied out: into a
buffer that is there for that, or, when they are more, into a file without a name, which is the
kernel's to write out, not this process's to hold.

A snapshot of many pages takes long, and its machine may be needed before it is made: then it is
given up between two chunks (rule 11 cannot wait for it). One of few is quicker made than missed.

What was taken is compared, compressed and stored, some pages at a time: however much a machine has
written, this process holds little of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from torpor.core.errors import HostError, TorporError
from torpor.core.home import Home
from torpor.core.memory import COPY_BUFFER_BYTES, give_back
from torpor.engine.memory import CopyBuffer, PageNumbers, Pages
from torpor.engine.protocol import Engine, Machine
from torpor.image.build import Image, open_image
from torpor.image.pageindex import ensure_index
from torpor.machines.live import Live
from torpor.machines.sparse import whole
from torpor.pager.client import PagerClient
from torpor.snapshot.baselines import ImageIndex, Kernel, hot_pages, kernel_in_memory
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.manifest import LayerRef, Manifest
from torpor.snapshot.pages import CHUNK_PAGES, InFile, InMemory, PageSource, Rows, chunks
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import SnapshotStore
from torpor.wire.link import LinkState


class GivenUp(TorporError):
    """A snapshot is not made, since its machine goes on."""


class InMachine:
    """Pages `numbers` of the memory of a machine that stands still."""

    def __init__(self, machine: Machine, numbers: PageNumbers) -> None:
        self._machine, self._numbers = machine, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, rows: Rows) -> Pages:
        pages = np.empty((len(rows), PAGE), np.uint8)
        self._machine.read_memory(self._numbers[rows], pages)
        return pages


class Taken:
    """What a pause took. `state` is what the machine handed over whole; `regions` are those of
    which pages changed, in the order of a manifest."""

    def __init__(
        self, link: LinkState, state: bytes, regions: Mapping[str, Changed], started: float
    ) -> None:
        """`started`: when the machine was paused, by `time.perf_counter`."""
        self.link, self.state = link, state
        self._regions = dict(regions)
        self._started = started
        self._in_place = True
        self._goes_on: Callable[[], bool] = lambda: False
        self.pause_ms = 0.0  # until the machine went on, or all was taken that keeps it from that
        self.note_pause()

    @property
    def regions(self) -> dict[str, Changed]:
        return {name: self._stoppable(region) for name, region in self._regions.items()}

    @property
    def count(self) -> int:
        """How many pages may have changed."""
        return sum(len(region.numbers) for region in self._regions.values())

    def note_pause(self) -> None:
        self.pause_ms = (time.perf_counter() - self._started) * 1000

    def give_up_if(self, goes_on: Callable[[], bool]) -> None:
        """Whoever makes a snapshot of many pages of it, looks at that before each chunk, in its own
        thread, and stops with GivenUp."""
        if self.count > CHUNK_PAGES:
            self._goes_on = goes_on

    def copy_out(self, buffer: CopyBuffer, directory: Path) -> None:
        """Before the machine goes on: copy the pages, into `buffer` if they fit, else into a file
        in `directory`, which has no name afterwards. Raises OSError (a full disk), HostError."""
        if self._in_place:
            if self.count <= buffer.pages:
                self._copy_to(buffer)
            else:
                self._spool(directory / "spool")
            self._in_place = False

    def _copy_to(self, buffer: CopyBuffer) -> None:
        room, start = buffer.room(buffer.pages), 0
        for name, region in self._regions.items():
            into = room[start : start + len(region.numbers)]
            for rows in chunks(len(into)):
                into[rows[0] : rows[-1] + 1] = region.pages.read(rows)
            self._move(name, InMemory(into))
            start += len(into)

    def _spool(self, path: Path) -> None:
        try:
            with path.open("xb", buffering=0) as file:
                for region in self._regions.values():
                    for rows in chunks(len(region.numbers)):
                        left = region.pages.read(rows).reshape(-1).data
                        while left:
                            left = left[file.write(left) :]
            start = 0
            for name, region in self._regions.items():
                stop = start + len(region.numbers)
                self._move(name, InFile(path, np.arange(start, stop)))
                start = stop
        finally:
            path.unlink(missing_ok=True)

    def _move(self, name: str, pages: PageSource) -> None:
        region = self._regions[name]
        self._regions[name] = Changed(region.length, region.numbers, pages)

    def _stoppable(self, region: Changed) -> Changed:
        return Changed(region.length, region.numbers, _Stoppable(region.pages, self._goes_on))


class _Stoppable:
    def __init__(self, source: PageSource, goes_on: Callable[[], bool]) -> None:
        self._source, self._goes_on = source, goes_on

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: Rows) -> Pages:
        if self._goes_on():
            raise GivenUp("the machine goes on")
        return self._source.read(rows)


@dataclass(frozen=True)
class Captured:
    """A snapshot that is durable and verifies (rule 5), not yet recorded."""

    manifest: str
    bytes: int
    link: LinkState
    # The guest stood still for this; or, if it has not gone on since, until all was taken that
    # would have kept it from that.
    pause_ms: float
    store_ms: float  # comparing, compressing, writing, after that
    pages: dict[str, int]  # what became of the pages that were looked at


class Capture:
    """Takes snapshots of one host's machines, of one at a time: they share the copy buffer, and two
    at once would only make both slower."""

    def __init__(
        self,
        home: Home,
        store: SnapshotStore,
        engine: Engine,
        image: Image,
        pager: PagerClient,
        cache: FrameCache,
    ) -> None:
        self._home = home
        self._store, self._engine, self._image, self._pager = store, engine, image, pager
        self._cache = cache
        self._buffer: CopyBuffer | None = None  # there from the first checkpoint on
        self._indexes: dict[str, ImageIndex] = {}  # by image
        self._one = asyncio.Lock()
        self._in_machine: dict[str, Taken] = {}  # by machine: what is still to be read of it

    @contextlib.asynccontextmanager
    async def capturing(self, live: Live) -> AsyncIterator[Taken]:
        """See `torpor.machines.host.Machines.capturing`."""
        async with self._one:
            await live.guest.stop_pumping()
            started = time.perf_counter()
            try:
                await live.machine.pause()
                live.guest.drain()
                if live.guest.broken is not None:
                    raise live.guest.broken
                taken = self._in_machine[live.name] = await self._take(live, started)
                yield taken
            except BaseException:
                self._in_machine.pop(live.name, None)
                await self.carry_on(live)
                raise
            finally:
                self._in_machine.pop(live.name, None)

    async def keep(
        self, live: Live, taken: Taken, hot: PageNumbers | None, goes_on: Callable[[], bool]
    ) -> Captured:
        """See `torpor.machines.host.Machines.keep`."""
        taken.give_up_if(goes_on)
        captured, manifest = await asyncio.to_thread(self._build_and_store, live, taken, hot)
        self._in_machine.pop(live.name, None)  # nothing is read of the machine any more
        live.history.append(manifest, self._store)
        return captured

    async def carry_on(self, live: Live) -> None:
        """See `torpor.machines.host.Machines.carry_on`."""
        if live.guest.pumping:
            return
        taken = self._in_machine.get(live.name)
        if taken is not None:
            await asyncio.to_thread(self._copy_out, taken, live.directory)
        with contextlib.suppress(HostError):  # it may be gone: then its reader says so
            await live.machine.resume()
        live.guest.go_on_pumping()
        if taken is not None:
            taken.note_pause()

    def _copy_out(self, taken: Taken, directory: Path) -> None:
        if self._buffer is None:
            self._buffer = CopyBuffer(COPY_BUFFER_BYTES)
        taken.copy_out(self._buffer, directory)

    async def _take(self, live: Live, started: float) -> Taken:
        """Of a paused machine: what cannot be read later, and where all the rest is."""
        names = self._engine.regions
        state, numbers, disk = await asyncio.gather(
            live.machine.device_state(),
            asyncio.to_thread(self._changed_memory, live),
            live.changed_disk(self._pager),
        )
        length, pages = live.shape.memory_mib << 20, InMachine(live.machine, numbers)
        regions = {names.memory: Changed(length, numbers, pages), names.disk: disk}
        return Taken(live.guest.link.state(), state, regions, started)

    def _changed_memory(self, live: Live) -> PageNumbers:
        if self._engine.capabilities.reports_changes:
            return live.machine.changed_memory()
        return np.arange((live.shape.memory_mib << 20) // PAGE)

    def _build_and_store(
        self, live: Live, taken: Taken, hot: PageNumbers | None
    ) -> tuple[Captured, Manifest]:
        started = time.perf_counter()
        names, history, regions = self._engine.regions, live.history, taken.regions
        everything = regions[names.memory].hashed()
        parent = history.newest
        if parent is None:
            history.begin_anew()
            parent = self._kernel_in_memory(names.memory, everything)
        memory = history.seen.without_known(everything)
        with self._store.draft() as draft:
            built = build(
                parent,
                self._store.reader(parent, self._cache, live.key),
                regions | {names.memory: memory, names.state: whole(taken.state)},
                hot=hot_pages(parent.hot, live.learned, memory.numbers) if hot is None else hot,
                facts={**parent.facts, **live.facts, "shape": live.shape.facts()},
                dedup=self._image_index(live.shape.image),
                key=live.key,
                out=draft,
            )
            stored = self._store.put(built, live.key)
        history.seen.note(everything)
        if taken.count > CHUNK_PAGES:
            give_back()
        captured = Captured(
            manifest=stored.manifest_digest,
            bytes=stored.bytes,
            link=taken.link,
            pause_ms=taken.pause_ms,
            store_ms=(time.perf_counter() - started) * 1000,
            pages=asdict(built.stats),
        )
        return captured, replace(built.manifest, digest=stored.manifest_digest)

    def _image_index(self, digest: str) -> ImageIndex:
        """Pages of a root file system: much of what appears in memory is cache of that."""
        if digest not in self._indexes:
            own = digest == self._image.digest
            image = self._image if own else open_image(self._home, digest)
            self._indexes[digest] = ensure_index(image)
        return self._indexes[digest]

    def _kernel_in_memory(self, region: str, memory: Changed) -> Manifest:
        facts, image = self._image.facts()["kernel_memory"], self._image
        layer = LayerRef("raw", image.digest, image.root.stat().st_size // PAGE)
        pages = facts["pages"] if self._engine.capabilities.boots_kernel else 0
        kernel = Kernel(facts["first_page"], pages, layer, facts["at"])
        return kernel_in_memory(region, memory.length, memory.numbers, kernel)
