"""Machines on this host: boot, restore, capture, discard. Knows no run and no log.

A machine that was booted stands on files of its own. One that was restored stands on a slot of
the pager, which serves its snapshot lazily; or was a warm machine (`torpor.machines.warm`), whose
memory is its agent's template with all overwritten that differs, and only its disk is on a slot.
`torpor.machines.live` has what is known of each, `torpor.machines.capture` how snapshots are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torpor.core.errors import HostError, TorporError
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.core.memory import SERVER_FRAMES_BYTES
from torpor.engine.memory import PageNumbers
from torpor.engine.protocol import Engine, Files, Shape
from torpor.image.build import Image
from torpor.machines.capture import Capture, Captured, Taken
from torpor.machines.fit import Fit
from torpor.machines.flat import Flats
from torpor.machines.guest import Guest
from torpor.machines.live import Booted, History, Lazy, Live, Warmed
from torpor.machines.pool import Empty, Pool, Spares, new_name
from torpor.machines.sparse import copy_sparse
from torpor.machines.warm import OVERWRITTEN_PAGES_MAX, Base, Warm, warm_up
from torpor.pager.client import PagerClient
from torpor.snapshot.build import Changed
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import InMemory, hashes_of
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.upon import Upon
from torpor.wire.link import Link, LinkState

log = logging.getLogger(__name__)

# A miss reads a frame's worth of pages: they were changed together, and decompress together.
READAHEAD_KB = 64


@dataclass(frozen=True)
class Frozen:
    """What a machine is restored from: its snapshot, and the host's end of its link. `key` opens
    the snapshot, if it is sealed, and seals those that will be taken of the machine. `arrived` is
    set when there is something to read of the guest."""

    digest: str
    link: LinkState
    key: Key | None = None
    arrived: asyncio.Event | None = None


@dataclass(frozen=True)
class _Plan:
    """A frozen machine that was looked at."""

    frozen: Frozen
    manifest: Manifest
    shape: Shape
    # Holds the snapshot back from garbage collection; the machine's, once there is one.
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def guest(self, empty: Empty) -> Guest:
        return Guest(empty.machine, Link.from_state(self.frozen.link), self.frozen.arrived)


async def tidy(home: Home, pager: PagerClient) -> None:
    """Remove what an earlier server left: its machines died with it, but the pager lives on. To be
    called before the first machine is started."""
    for slot in (await pager.ping())["slots"]:
        await pager.drop(slot)
    for left in (home.machines, home.flats):
        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)


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
        self._flats = Flats(home.flats, store, engine.regions.memory)
        self._cache = FrameCache(SERVER_FRAMES_BYTES)
        self._capture = Capture(home, store, engine, image, pager, self._cache)

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

    async def boot(self, shape: Shape) -> Booted:
        """Boot the image on fresh files. The link is synchronised; nothing has come yet."""
        name = new_name()
        directory = self.home.machines / name
        directory.mkdir(parents=True)
        memory, disk = directory / "memory", directory / "disk"
        try:
            with memory.open("wb") as file:
                file.truncate(shape.memory_mib << 20)
            pristine = await asyncio.to_thread(self.image.disk, shape.disk_mib)
            await copy_sparse(pristine, disk)
            files = Files(memory, disk, self.image.root, self.pool.deps_path(shape))
            if self.engine.capabilities.boots_kernel:
                files = replace(files, kernel=self.image.kernel, initramfs=self.image.initramfs)
            machine = await self.engine.start(shape, files, directory)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        guest = Guest(machine, Link())
        guest.synchronise()
        return Booted(
            name=name, shape=shape, machine=machine, guest=guest, directory=directory, disk=disk
        )

    async def restore(
        self, frozen: Frozen, *, version: AgentVersion | None = None, push: bool = True
    ) -> Lazy | Warmed:
        """A paused machine with the content of a snapshot, to be thawed (rule 8). A warm machine of
        `version`, the agent's, becomes it if there is one and that is quicker. Without `push` it
        has to wait for every page: for measuring what learning them is worth.

        Raises Damaged, NotFound (its bytes are gone), Unfit (it is of another host),
        HostError.
        """
        plan = await self._plan(frozen)
        with plan.held:
            live: Lazy | Warmed | None = None
            if version is not None:
                live = await self._from_warm(version, plan)
            if live is None:
                live = await self._fill(await self.pool.take(plan.shape), plan, push=push)
            live.base = plan.held.pop_all()
        return live

    async def _plan(self, frozen: Frozen) -> _Plan:
        with contextlib.ExitStack() as held:
            held.enter_context(self.store.held(frozen.digest))
            manifest = await asyncio.to_thread(self.store.load, frozen.digest, frozen.key)
            return _Plan(frozen, manifest, self.fit.shape_of(manifest), held.pop_all())

    async def _from_warm(self, version: AgentVersion, plan: _Plan) -> Warmed | None:
        """A warm machine of the version that has become the snapshot; None where there is none, or
        it would not be quicker."""
        warm = await self.warm.take(version, wait=False)
        if warm is None:
            return None
        if warm.template.facts["shape"] != plan.shape.facts():
            await warm.discard()
            return None
        memory = self.engine.regions.memory
        upon = await asyncio.to_thread(Upon, memory, warm.template, plan.manifest)
        numbers = warm.overwritten(upon)
        if len(numbers) > OVERWRITTEN_PAGES_MAX:
            self.warm.put_back(version, warm)
            return None
        frozen, machine = plan.frozen, warm.machine
        reader = self.store.reader(plan.manifest, self._cache, frozen.key)
        try:
            pages, state, _, _ = await asyncio.gather(
                asyncio.to_thread(upon.pages, numbers, warm.memory, reader),
                asyncio.to_thread(self._device_state, plan.manifest, frozen.key),
                machine.forget(numbers),
                self.pager.bind(warm.empty.name, frozen.digest, hot=False, key=frozen.key),
            )
            await machine.become(numbers, pages, state)
        except (TorporError, OSError) as error:
            # Nothing is lost: what is damaged is found again by whoever restores it lazily.
            log.info("a warm machine did not become %s: %s", frozen.digest, error)
            await warm.discard()
            return None
        except BaseException:
            await warm.discard()
            raise
        warm.held.close()
        live = Warmed(
            name=warm.empty.name,
            shape=plan.shape,
            machine=machine,
            guest=plan.guest(warm.empty),
            directory=warm.empty.directory,
            history=History(plan.manifest),
            key=frozen.key,
        )
        overwritten = InMemory(pages)
        length, hashes = plan.shape.memory_mib << 20, hashes_of(pages)
        live.history.seen.note(Changed(length, numbers, overwritten, hashes))
        return live

    async def get_ready(self, live: Live, version: AgentVersion, template: Base) -> None:
        """Have ready, soon, what the next machine like `live` is best made from."""
        suits = live.warm or await asyncio.to_thread(self._suits_warm, live, template)
        if suits and self._warms:
            self.warm_up(version, template)
        else:
            self.pool.refill(live.shape)

    def _suits_warm(self, live: Live, template: Base) -> bool:
        """Whether a warm machine would become the machine's snapshot, were there one."""
        if not self._warms:
            return False
        above = live.history.newest
        assert above is not None
        below = self.store.load(template.digest)
        if below.facts["shape"] != live.shape.facts():
            return False
        upon = Upon(self.engine.regions.memory, below, above)
        return len(upon.differing) < OVERWRITTEN_PAGES_MAX // 2

    @property
    def _warms(self) -> bool:
        """Whether machines can wait warm here."""
        return self.engine.capabilities.becomes and self._flats.safe

    def warm_up(self, version: AgentVersion, template: Base) -> None:
        """Have a warm machine of the agent's version ready soon."""
        if self._warms:
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

    async def rehearse(self, frozen: Frozen) -> Lazy:
        """As `restore`, with nothing pushed ahead and, where the pager may set that, read page by
        page: what it then faults in is exactly what the way back touches."""
        plan = await self._plan(frozen)
        with plan.held:
            await self._set_readahead(0)
            try:
                empty = await self.pool.start(plan.shape)
            finally:
                await self._set_readahead(READAHEAD_KB)
            live = await self._fill(empty, plan, push=False)
            live.base = plan.held.pop_all()
        return live

    async def _set_readahead(self, kb: int) -> None:
        # Only root may. Without it more pages are learned, and pushed, than are needed.
        with contextlib.suppress(HostError):
            await self.pager.readahead(kb)

    async def _fill(self, empty: Empty, plan: _Plan, *, push: bool) -> Lazy:
        frozen = plan.frozen
        try:
            _, state = await asyncio.gather(
                self.pager.bind(empty.name, frozen.digest, hot=push, key=frozen.key),
                asyncio.to_thread(self._device_state, plan.manifest, frozen.key),
            )
            await empty.machine.load(state)
        except BaseException:
            await empty.discard()
            raise
        return Lazy(
            name=empty.name,
            shape=plan.shape,
            machine=empty.machine,
            guest=plan.guest(empty),
            directory=empty.directory,
            history=History(plan.manifest),
            key=frozen.key,
        )

    def _device_state(self, manifest: Manifest, key: Key | None) -> bytes:
        reader = self.store.reader(manifest, self._cache, key)
        state = self.engine.regions.state
        return reader.read(state, 0, manifest.regions[state].length)

    async def learn(self, live: Live) -> None:
        """Note what the way back of a machine has touched, once it is back: for its next
        snapshot."""
        await live.learn(self.pager)

    def capturing(self, live: Live) -> contextlib.AbstractAsyncContextManager[Taken]:
        """Pause the machine and take what changed of it; it stays paused.

        Inside, `keep` makes a snapshot of what was taken, before or after `carry_on`. Leaving
        with an error resumes the machine: a failed snapshot harms nothing (rule 6).
        """
        return self._capture.capturing(live)

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
        return await self._capture.keep(live, taken, hot, goes_on)

    async def carry_on(self, live: Live) -> None:
        """A paused machine goes on instead of being killed, once nothing has to be read of it any
        more. Does nothing to one that runs."""
        await self._capture.carry_on(live)

    def delete_alone(self, captured: Captured) -> None:
        """Delete a snapshot that has no parent and was never recorded."""
        for layer in self.store.load(captured.manifest).layers:
            if layer.kind != "raw":
                self.store.delete_layer(layer.digest)
        self.store.delete_manifest(captured.manifest)

    async def served(self, live: Live) -> dict[str, Any]:
        """What the pager has done for the machine. Raises Missing, NotFound."""
        stats = await self.pager.stats(live.name)
        return {key: value for key, value in stats.items() if key not in ("faults", "damage")}

    async def damage_of(self, live: Live) -> str | None:
        """What of its snapshot the machine tried to read and could not, in words."""
        return await live.damage(self.pager)

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
        await live.release(self.pager)
        await asyncio.to_thread(shutil.rmtree, live.directory, ignore_errors=True)
