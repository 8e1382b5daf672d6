"""Warm machines: what a resume takes, when there is one for the agent's version.

An emulated processor translates the guest's code before it runs it, and forgets the translation
with its process: a third of a second of a plain resume is spent on translating, again and again,
the same way back from the same freeze. A warm machine has been that way. It stands on the
version's template (`torpor.machines.flat`), was thawed, prepared, and stopped: no agent
has started in it, no run is known to it.

    start on the flat file ─► load the template's devices ─► thaw ─► prepare ─► pause    waits
                                                                                       │
    forget, overwrite the pages that differ, load the snapshot's devices  ◄── become ──┘

What differs between it and a snapshot is known exactly: the pages that it has changed on its way
(the kernel tells), and those that are others in the snapshot than in the template (the manifests
tell). Nothing else of it is left: its link is new, its disk is bound anew. Translations of all
other pages stay, and they are of the bytes that these pages still hold. Where the processor needs
no translation (`Engine.learns`), it waits unloaded, and there is only less to read.

A snapshot that differs in too much is quicker restored lazily, from the pager.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import numpy as np

from torpor.core.errors import GuestError
from torpor.core.ids import Epoch, RunId
from torpor.core.limits import PREPARE_LIMIT_S
from torpor.engine.memory import PageNumbers
from torpor.engine.protocol import Machine, Shape
from torpor.machines.flat import Flats
from torpor.machines.guest import Guest
from torpor.machines.pool import Empty, Pool
from torpor.machines.thaw import thaw
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import PageSource
from torpor.snapshot.store import SnapshotStore
from torpor.snapshot.upon import Upon
from torpor.wire import names
from torpor.wire.link import Link, LinkState

# Pages to overwrite, 16 MiB: beyond that reading and writing them ahead takes longer than to push
# the hot ones and leave the others to faults (measured: 45 ms for 5 MiB, 170 ms lazily).
OVERWRITTEN_PAGES_MAX = 4096
SETTLE_LIMIT_S = 5.0
_NOBODY, _NO_EPOCH = RunId("warming"), Epoch(1)


@dataclass(frozen=True)
class Base:
    """What a warm machine is made of: a template's snapshot."""

    digest: str
    link: LinkState


@dataclass(frozen=True, eq=False)
class Warm:
    empty: Empty
    template: Manifest
    memory: PageSource  # the template's
    changed: PageNumbers  # pages of memory that are the template's no more
    held: contextlib.ExitStack  # what keeps its template's layers from being collected

    @property
    def machine(self) -> Machine:
        return self.empty.machine

    @property
    def alive(self) -> bool:
        return self.machine.alive

    async def discard(self) -> None:
        self.held.close()
        await self.empty.discard()

    def overwritten(self, upon: Upon) -> PageNumbers:
        """The pages in which it differs from a snapshot."""
        return np.union1d(self.changed, upon.differing)


async def warm_up(
    pool: Pool,
    flats: Flats,
    store: SnapshotStore,
    shape: Shape,
    template: Base,
    device_state: bytes | None,
) -> Warm:
    """A warm machine of a template. `device_state` is the template's, None where going through a
    thaw teaches the engine nothing. Raises Damaged, NotFound, HostError, GuestError, OSError."""
    with contextlib.ExitStack() as held:
        held.enter_context(store.held(template.digest))
        manifest = await asyncio.to_thread(store.load, template.digest)
        flat = await asyncio.to_thread(flats.get, template.digest, manifest)
        empty = await pool.start(shape, flat.path)
        try:
            await empty.pager.bind(empty.name, template.digest, hot=False)
            changed = np.empty(0, np.int64)
            if device_state is not None:
                await empty.machine.load(device_state)
                changed = await _there_and_back(empty.machine, template.link)
        except BaseException:
            await empty.discard()
            raise
        return Warm(empty, manifest, flat.pages, changed, held.pop_all())


async def _there_and_back(machine: Machine, link: LinkState) -> PageNumbers:
    """Thaw the machine, prepare it and pause it; the pages that this changed."""
    guest = Guest(machine, Link.from_state(link))
    try:
        await thaw(guest, _NOBODY, _NO_EPOCH, started=False, journal=[])
        guest.say(names.PREPARE)
        await guest.hear(names.PREPARED, within_s=PREPARE_LIMIT_S)
        # What it leaves unread would be read by the machine that it becomes.
        await guest.settle(SETTLE_LIMIT_S)
    finally:
        await guest.stop_pumping()
    await machine.pause()
    guest.drain()
    if guest.broken is not None:
        raise guest.broken
    if guest.unread:
        raise GuestError("a warmed machine has not read its messages")
    return await asyncio.to_thread(machine.changed_memory)
