"""Machines on this host: boot, restore, capture, discard. Knows no run and no log.

A machine that was booted stands on files of its own. One that was restored stands on a slot of
the pager, which serves its snapshot lazily; or was a warm machine (`torpor.machines.warm`), whose
memory is its agent's template with all overwritten that differs, and only its disk is on a slot.
Capturing is the same for all: one pause (rule 7) has device state, changed memory and changed disk
taken (`torpor.machines.capture`), which are then compared, compressed and stored, some pages at a
time: however much a machine has written, this process holds little of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from torpor.core.errors import HostError, Invalid, TorporError
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.core.memory import COPY_BUFFER_BYTES, SERVER_FRAMES_BYTES, give_back
from torpor.engine.memory import PAGE, CopyBuffer, PageNumbers
from torpor.engine.protocol import Engine, Files, Machine, Shape
from torpor.image.build import Image, open_image
from torpor.image.publish import Workspace, build_once
from torpor.machines.capture import InMachine, Taken
from torpor.machines.fit import Fit
from torpor.machines.flat import Flats
from torpor.machines.guest import Guest
from torpor.machines.pool import Empty, Pool, Spares, new_name
from torpor.machines.sparse import copy_sparse, data_pages, pages_of, whole
from torpor.machines.warm import OVERWRITTEN_PAGES_MAX, Base, Warm, warm_up
from torpor.pager.client import PagerClient
from torpor.snapshot.build import Changed, ImageIndex, build, build_index
from torpor.snapshot.manifest import LayerRef, Manifest, Region
from torpor.snapshot.pages import CHUNK_PAGES, InFile, InMemory, hashes_of
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.refs import make_refs
from torpor.snapshot.seal import Key
from torpor.snapshot.seen import Seen
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.upon import Upon
from torpor.wire.link import Link, LinkState

log = logging.getLogger(__name__)

# More pages than this changed in one go are work, not the way back from a freeze: only the
# latter is worth pushing ahead of the next resume.
_HOT_CHANGED_MAX = 1024
# A miss reads a frame's worth of pages: they were changed together, and decompress together.
READAHEAD_KB = 64


@dataclass
class Live:
    """A machine that exists, and what its next snapshot will be compared with."""

    name: str
    shape: Shape
    machine: Machine
    guest: Guest
    directory: Path
    restored: bool  # it stands on a slot of the pager; else on files of its own
    snapshot: str | None  # manifest of its newest snapshot
    manifest: Manifest | None = None  # the same, decoded, if it was at hand
    key: Key | None = None  # opens its snapshots and seals the next; None: they are in the clear
    flat: bool = False  # it was a warm machine: its memory is a template's, and what was written
    seen: Seen = field(default_factory=Seen)  # what is known of its memory in that snapshot
    # Memory pages that the way back had to wait for, and all that it touched.
    faults: PageNumbers | None = None
    touched: PageNumbers | None = None
    taken: Taken | None = None  # what its snapshot is being made of
    # Held back from garbage collection while it lives (rule 12): the snapshot it reads its
    # memory from, and its newest, which may wait long to be recorded and is the next one's parent.
    base: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    newest: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


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


async def tidy(home: Home, store: SnapshotStore, pager: PagerClient) -> None:
    """Remove what an earlier server left: its machines died with it, but the pager lives on. To be
    called before the first machine is started."""
    for slot in (await pager.ping())["slots"]:
        await pager.drop(slot)
    for left in (home.machines, home.flats):
        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
    await asyncio.to_thread(store.blobs.sweep)


class Machines:
    def __init__(
        self, home: Home, store: SnapshotStore, engine: Engine, image: Image, pager: PagerClient
    ) -> None:
        self.home = home
        self.engine = engine
        self.image = image
        self.pager = pager
        self.store = store
        self.fit = Fit(home, store, engine, image)
        self.pool = Pool(home, engine, pager)
        self.warm: Spares[AgentVersion, Warm] = Spares()
        self._flats = Flats(home.flats, store)
        self._cache = FrameCache(SERVER_FRAMES_BYTES)
        self._buffer: CopyBuffer | None = None  # there from the first checkpoint on
        self._indexes: dict[str, ImageIndex] = {}  # by image
        # Capture and comparison of one machine at a time: they share the copy buffer, and two at
        # once would only make both slower.
        self._capturing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        """How many machines wait for a run, empty or warm, or are being started for that."""
        return self.pool.empties.waiting + self.warm.waiting

    async def drop_caches(self) -> None:
        """Forget what is only kept to be faster, but the kernel's own caches: for measuring."""
        self._cache.clear()
        await self.pager.drop_caches()

    def shape(self, *, memory_mib: int, disk_mib: int, deps: str) -> Shape:
        return self.engine.shape(
            memory_mib=memory_mib, disk_mib=disk_mib, image=self.image.digest, deps=deps
        )

    async def boot(self, shape: Shape) -> Live:
        """Boot the image on fresh files. The link is synchronised; nothing was heard yet."""
        name = new_name()
        directory = self.home.machines / name
        directory.mkdir(parents=True)
        memory, disk = directory / "memory", directory / "disk"
        try:
            with memory.open("wb") as file:
                file.truncate(shape.memory_mib << 20)
            pristine = await asyncio.to_thread(self.image.disk, shape.disk_mib)
            await copy_sparse(pristine, disk)
            files = Files(
                memory,
                disk,
                self.image.root,
                self.pool.deps_path(shape),
                self.image.kernel,
                self.image.initramfs,
            )
            machine = await self.engine.start(shape, files, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        guest = Guest(machine, Link())
        guest.synchronise()
        return Live(name, shape, machine, guest, directory, restored=False, snapshot=None)

    async def restore(
        self,
        digest: str,
        link: LinkState,
        heard: asyncio.Event | None = None,
        key: Key | None = None,
        *,
        version: AgentVersion | None = None,
        push: bool = True,
    ) -> Live:
        """A paused machine with the content of snapshot `digest`, to be thawed (rule 8). `key`
        opens that, if it is sealed, and seals the snapshots that will be taken of the machine.
        A warm machine of `version`, the agent's, becomes it if there is one and that is quicker.
        Without `push` it has to wait for every page: for measuring what learning them is worth.

        Raises Damaged, NotFound (its bytes are gone), Unfit (it is of another host),
        HostError.
        """
        with contextlib.ExitStack() as base:
            base.enter_context(self.store.held(digest))
            manifest = await asyncio.to_thread(self.store.load, digest, key)
            shape = self.fit.shape_of(manifest)
            live = None
            if version is not None:
                live = await self._from_warm(version, shape, digest, manifest, link, heard, key)
            if live is None:
                empty = await self.pool.take(shape)
                live = await self._fill(empty, shape, digest, manifest, link, heard, key, push=push)
            live.base = base.pop_all()
        live.manifest = manifest
        return live

    async def _from_warm(
        self,
        version: AgentVersion,
        shape: Shape,
        digest: str,
        manifest: Manifest,
        link: LinkState,
        heard: asyncio.Event | None,
        key: Key | None,
    ) -> Live | None:
        """A warm machine of the version that has become the snapshot; None where there is none, or
        it would not be quicker."""
        warm = await self.warm.take(version, wait=False)
        if warm is None:
            return None
        if warm.template.facts["shape"] != shape.facts():
            await warm.discard()
            return None
        upon = await asyncio.to_thread(Upon, "memory", warm.template, manifest)
        numbers = warm.overwritten(upon)
        if len(numbers) > OVERWRITTEN_PAGES_MAX:
            self.warm.put_back(version, warm)
            return None
        machine, name = warm.machine, warm.empty.name
        reader = self.store.reader(manifest, self._cache, key)
        try:
            pages, state, _, _ = await asyncio.gather(
                asyncio.to_thread(upon.pages, numbers, warm.memory, reader),
                asyncio.to_thread(self._device_state, manifest, key),
                machine.forget(numbers),
                self.pager.bind(name, digest, hot=False, key=key),
            )
            await machine.become(numbers, pages, state)
        except (TorporError, OSError) as error:
            # Nothing is lost: what is damaged is found again, and told, by who restores it lazily.
            log.info("a warm machine did not become %s: %s", digest, error)
            await warm.discard()
            return None
        except BaseException:
            await warm.discard()
            raise
        warm.held.close()
        live = Live(
            name,
            shape,
            machine,
            Guest(machine, Link.from_state(link), heard),
            warm.empty.directory,
            restored=True,
            snapshot=digest,
            key=key,
            flat=True,
        )
        hashes = hashes_of(pages)
        live.seen.note(Changed(shape.memory_mib << 20, numbers, InMemory(pages), hashes))
        return live

    async def get_ready(self, live: Live, version: AgentVersion, template: Base) -> None:
        """Have ready, soon, what the next machine like `live` is best made from."""
        suits = self._flats.safe and (
            live.flat or await asyncio.to_thread(self._suits_warm, live, template)
        )
        if suits:
            self.warm_up(version, template)
        else:
            self.pool.refill(live.shape)

    def _suits_warm(self, live: Live, template: Base) -> bool:
        """Whether a warm machine would become the machine's snapshot, were there one."""
        assert live.snapshot is not None
        below, above = self.store.load(template.digest), self.store.load(live.snapshot, live.key)
        if below.facts["shape"] != live.shape.facts():
            return False
        return len(Upon("memory", below, above).differing) < OVERWRITTEN_PAGES_MAX // 2

    def warm_up(self, version: AgentVersion, template: Base) -> None:
        """Have a warm machine of the agent's version ready soon."""
        if self._flats.safe:
            self.warm.refill(version, lambda: self._warm(template))

    async def _warm(self, template: Base) -> Warm:
        manifest = await asyncio.to_thread(self.store.load, template.digest)
        state = await asyncio.to_thread(self._device_state, manifest, None)
        return await warm_up(
            self.pool,
            self._flats,
            self.store,
            self.fit.shape_of(manifest),
            template,
            state if self.engine.learns else None,
        )

    def drop_idle(self) -> None:
        """End spare machines that nobody asked for lately."""
        self.pool.empties.drop_idle()
        self.warm.drop_idle()

    async def settled(self) -> None:
        """Wait until no spare machine is being made."""
        await self.pool.empties.settled()
        await self.warm.settled()

    async def forget_spares(self) -> None:
        await asyncio.gather(self.pool.empties.forget(), self.warm.forget())

    async def close(self) -> None:
        """End the spare machines, for good."""
        await asyncio.gather(self.pool.empties.close(), self.warm.close())

    async def rehearse(self, digest: str, link: LinkState) -> Live:
        """As `restore`, with nothing pushed ahead and, where the pager may set that, read page by
        page: what it then faults in is exactly what the way back touches."""
        manifest = await asyncio.to_thread(self.store.load, digest)
        shape = self.fit.shape_of(manifest)
        await self._set_readahead(0)
        try:
            empty = await self.pool.start(shape)
        finally:
            await self._set_readahead(READAHEAD_KB)
        return await self._fill(empty, shape, digest, manifest, link, None, push=False)

    async def _set_readahead(self, kb: int) -> None:
        # Only root may. Without it more pages are learned, and pushed, than are needed.
        with contextlib.suppress(HostError):
            await self.pager.readahead(kb)

    async def _fill(
        self,
        empty: Empty,
        shape: Shape,
        digest: str,
        manifest: Manifest,
        link: LinkState,
        heard: asyncio.Event | None,
        key: Key | None = None,
        *,
        push: bool = True,
    ) -> Live:
        try:
            _, state = await asyncio.gather(
                self.pager.bind(empty.name, digest, hot=push, key=key),
                asyncio.to_thread(self._device_state, manifest, key),
            )
            await empty.machine.load(state)
        except BaseException:
            await empty.discard()
            raise
        return Live(
            empty.name,
            shape,
            empty.machine,
            Guest(empty.machine, Link.from_state(link), heard),
            empty.directory,
            restored=True,
            snapshot=digest,
            key=key,
        )

    def _device_state(self, manifest: Manifest, key: Key | None) -> bytes:
        reader = self.store.reader(manifest, self._cache, key)
        return reader.read("device", 0, manifest.regions["device"].length)

    async def learn_faults(self, live: Live) -> None:
        """Note, once the machine is back, which pages that took: those it had to wait for, and
        of those it got ahead the ones that it touched. The next resume gets these ahead."""
        if live.flat:
            return  # it waited for nothing, and of a plain file more is mapped than it touches
        live.touched = await asyncio.to_thread(live.machine.touched_memory)
        live.faults = pages_of((await self.pager.stats(live.name))["faults"])

    @contextlib.asynccontextmanager
    async def capturing(self, live: Live) -> AsyncIterator[Taken]:
        """Pause the machine and take what changed of it; it stays paused.

        Inside, `keep` makes a snapshot of what was taken, before or after `carry_on`. Leaving
        with an error resumes the machine: a failed snapshot harms nothing (rule 6).
        """
        async with self._capturing:
            await live.guest.stop_pumping()
            started = time.perf_counter()
            try:
                await live.machine.pause()
                live.guest.drain()
                if live.guest.broken is not None:
                    raise live.guest.broken
                live.taken = await self._take(live, started)
                yield live.taken
            except BaseException:
                live.taken = None
                await self.carry_on(live)
                raise
            finally:
                live.taken = None

    async def keep(
        self,
        live: Live,
        taken: Taken,
        hot: PageNumbers | None = None,
        goes_on: Callable[[], bool] = lambda: False,
    ) -> Captured:
        """Store what was taken, durably (rule 5). `hot` overrides what a restore pushes; by
        default it is learned. The next snapshot of this machine is compared with this one.

        Raises GivenUp if there is much to store and `goes_on`, which another thread calls, comes
        to say that the machine is to go on first."""
        taken.give_up_if(goes_on)
        captured = await asyncio.to_thread(self._build_and_store, live, taken, hot)
        live.taken = None  # nothing is read of the machine any more
        live.snapshot = captured.manifest
        newest = contextlib.ExitStack()
        newest.enter_context(self.store.held(captured.manifest))
        live.newest.close()
        live.newest = newest
        return captured

    def delete_alone(self, captured: Captured) -> None:
        """Delete a snapshot that has no parent and was never recorded."""
        for layer in self.store.load(captured.manifest).layers:
            if layer.kind != "raw":
                self.store.delete_layer(layer.digest)
        self.store.delete_manifest(captured.manifest)

    async def carry_on(self, live: Live) -> None:
        """A paused machine goes on instead of being killed, once nothing has to be read of it any
        more. Does nothing to one that runs."""
        if live.guest.pumping:
            return
        if live.taken is not None:
            await asyncio.to_thread(self._copy_out, live.taken, live.directory)
        with contextlib.suppress(HostError):  # it may be gone: then its reader says so
            await live.machine.resume()
        live.guest.go_on_pumping()
        if live.taken is not None:
            live.taken.note_pause()

    def _copy_out(self, taken: Taken, directory: Path) -> None:
        if self._buffer is None:
            self._buffer = CopyBuffer(COPY_BUFFER_BYTES)
        taken.copy_out(self._buffer, directory)

    async def served(self, live: Live) -> dict[str, Any]:
        """What the pager has done for the machine. Raises Missing, NotFound."""
        stats = await self.pager.stats(live.name)
        return {key: value for key, value in stats.items() if key not in ("faults", "damage")}

    async def damage_of(self, live: Live) -> str | None:
        """What of its snapshot the machine tried to read and could not, in words."""
        if not live.restored:
            return None
        with contextlib.suppress(TorporError):  # without a pager there is nobody to say
            damage: str | None = (await self.pager.stats(live.name))["damage"]
            return damage
        return None

    async def discard(self, live: Live) -> None:
        """Kill the machine and forget its files: all of that, even when cancelled meanwhile, since
        what is stopped next may be what it needs."""
        discarding = asyncio.create_task(self._discard(live))
        try:
            await asyncio.shield(discarding)
        except asyncio.CancelledError:
            await discarding
            raise

    async def _discard(self, live: Live) -> None:
        await live.guest.stop_pumping()
        await live.machine.kill()
        if live.restored:
            with contextlib.suppress(TorporError):  # a pager that died has forgotten it already
                await self.pager.drop(live.name)
        live.base.close()
        live.newest.close()
        await asyncio.to_thread(shutil.rmtree, live.directory, ignore_errors=True)

    async def _take(self, live: Live, started: float) -> Taken:
        """Of a paused machine: what cannot be read later, and where all the rest is."""
        device, numbers, disk = await asyncio.gather(
            live.machine.device_state(),
            asyncio.to_thread(live.machine.changed_memory),
            self._take_disk(live),
        )
        memory = Changed(live.shape.memory_mib << 20, numbers, InMachine(live.machine, numbers))
        return Taken(live.guest.link.state(), device, memory, disk, started)

    async def _take_disk(self, live: Live) -> Changed:
        length = live.shape.disk_mib << 20
        if live.restored:
            answer = await self.pager.dirty(live.name)
            path, numbers = Path(answer["overlay"]), pages_of(answer["pages"])
        else:
            path = live.directory / "disk"
            numbers = await asyncio.to_thread(data_pages, path, length)
        return Changed(length, numbers, InFile(path, numbers))

    def _build_and_store(self, live: Live, taken: Taken, hot: PageNumbers | None) -> Captured:
        started = time.perf_counter()
        if live.snapshot is not None:
            parent = live.manifest
            if parent is None or parent.digest != live.snapshot:
                parent = self.store.load(live.snapshot, live.key)
        else:
            parent = self._kernel_in_memory(taken.memory)
            live.seen = Seen()
        everything = taken.memory.hashed()
        memory = live.seen.without_known(everything)
        with self.store.draft() as draft:
            built = build(
                parent,
                self.store.reader(parent, self._cache, live.key),
                {"memory": memory, "disk": taken.disk, "device": whole(taken.device)},
                hot=self._hot(live, parent, memory.numbers) if hot is None else hot,
                facts={**parent.facts, "shape": live.shape.facts()},
                dedup=self._image_index(live.shape.image),
                key=live.key,
                out=draft,
            )
            stored = self.store.put(built, live.key)
        live.manifest = replace(built.manifest, digest=stored.manifest_digest)
        live.seen.note(everything)
        if len(everything.numbers) + len(taken.disk.numbers) > CHUNK_PAGES:
            give_back()
        return Captured(
            manifest=stored.manifest_digest,
            bytes=stored.bytes,
            link=taken.link,
            pause_ms=taken.pause_ms,
            store_ms=(time.perf_counter() - started) * 1000,
            pages=asdict(built.stats),
        )

    def _image_index(self, digest: str) -> ImageIndex:
        """Pages of a root file system: much of what appears in memory is cache of that."""
        if digest in self._indexes:
            return self._indexes[digest]
        own = digest == self.image.digest
        image = self.image if own else open_image(self.home, digest)

        def make(workspace: Workspace) -> Path:
            table = workspace.directory / "pages.npy"
            np.save(table, build_index(image.root))
            return table

        def damage(table: Path) -> str:
            try:
                ImageIndex.open(digest, image.root, table)
            except (ValueError, EOFError, LookupError, Invalid) as error:
                return f"the index of its pages is damaged: {error}"
            return ""

        table = build_once(image.directory / "pages.npy", make, damage=damage, damaged=log.warning)
        self._indexes[digest] = ImageIndex.open(digest, image.root, table)
        return self._indexes[digest]

    def _kernel_in_memory(self, memory: Changed) -> Manifest:
        """What a booted machine is compared with: memory that holds the kernel's file and else
        zeros. Only pages that the boot touched: the others are zero in truth."""
        kernel = self.image.facts()["kernel_memory"]
        refs = np.zeros(memory.length // PAGE, dtype=np.uint64)
        pages = np.arange(kernel["pages"], dtype=np.uint64)
        refs[kernel["first_page"] : kernel["first_page"] + kernel["pages"]] = make_refs(
            0, kernel["at"] + pages
        )
        untouched = np.ones(len(refs), dtype=bool)
        untouched[memory.numbers] = False
        refs[untouched] = 0
        layer = LayerRef("raw", self.image.digest, self.image.root.stat().st_size // PAGE)
        region = Region("memory", memory.length, refs, np.zeros_like(refs))
        return Manifest((layer,), {"memory": region}, hot=np.empty(0, np.uint32), facts={})

    def _hot(self, live: Live, parent: Manifest, changed: PageNumbers) -> PageNumbers:
        hot = parent.hot.astype(np.int64)
        parts = [hot if live.touched is None else np.intersect1d(hot, live.touched)]
        if live.faults is not None:
            parts.append(live.faults)
        if len(changed) <= _HOT_CHANGED_MAX:
            parts.append(changed)
        return np.unique(np.concatenate(parts))
