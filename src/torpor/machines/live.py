"""A machine that exists: what is known of it, by the way it came to be.

    Booted   from the image, on files of its own
    Lazy     from a snapshot, on a slot of the pager, which reads pages as they are touched
    Warmed   a warm machine (`torpor.machines.warm`) that has become a snapshot: its memory is a
             template's with what differs overwritten; only its disk is on a slot

`Live` is any of them. What the three do differently stands here: where their disk's changes are,
what may be wrong with what they read, and what of the way back can be learned from them.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torpor.core.errors import TorporError
from torpor.engine.protocol import Machine, Shape
from torpor.machines.guest import Guest
from torpor.machines.sparse import data_pages, pages_in
from torpor.pager.client import PagerClient
from torpor.snapshot.baselines import Learned
from torpor.snapshot.build import Changed
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import InFile
from torpor.snapshot.seal import Key
from torpor.snapshot.seen import Seen
from torpor.snapshot.store import SnapshotStore


@dataclass(eq=False)
class History:
    """What a machine's next snapshot is compared with: its newest, and what is known of its memory
    in that. The newest is held back from garbage collection, since it may wait long to be recorded
    (rule 12)."""

    newest: Manifest | None = None
    seen: Seen = field(default_factory=Seen)
    _held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def append(self, manifest: Manifest, store: SnapshotStore) -> None:
        """This snapshot is durable, and the newest from now on."""
        assert manifest.digest is not None
        self.newest = manifest
        held = contextlib.ExitStack()
        held.enter_context(store.held(manifest.digest))
        self._held.close()
        self._held = held

    def begin_anew(self) -> None:
        """The next snapshot has no parent, as if there had been none."""
        self.newest, self.seen = None, Seen()

    def close(self) -> None:
        self._held.close()


@dataclass(eq=False, kw_only=True)
class _Standing:
    name: str
    shape: Shape
    machine: Machine
    guest: Guest
    directory: Path
    history: History = field(default_factory=History)
    # What the manifests of its snapshots say beside what their parents' do, for whoever loads it.
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class Booted(_Standing):
    """No agent of a run is in it yet: its snapshots are in the clear."""

    disk: Path

    key = None
    warm = False

    @property
    def learned(self) -> Learned:
        return Learned()

    async def changed_disk(self, pager: PagerClient) -> Changed:
        """The pages of its disk that may differ from its newest snapshot's."""
        length = self.shape.disk_mib << 20
        numbers = await asyncio.to_thread(data_pages, self.disk, length)
        return Changed(length, numbers, InFile(self.disk, numbers))

    async def learn(self, pager: PagerClient) -> None: ...

    async def damage(self, pager: PagerClient) -> str | None:
        return None

    async def release(self, pager: PagerClient) -> None:
        self.history.close()


@dataclass(eq=False, kw_only=True)
class _OnSlot(_Standing):
    """`key` opens its snapshots, and seals the next; None: they are in the clear. `base` holds the
    snapshot that it reads from back from garbage collection while it lives (rule 12)."""

    key: Key | None
    base: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    async def changed_disk(self, pager: PagerClient) -> Changed:
        """The pages of its disk that may differ from its newest snapshot's."""
        dirty = await pager.dirty(self.name)
        numbers = pages_in(dirty["pages"])
        return Changed(self.shape.disk_mib << 20, numbers, InFile(Path(dirty["overlay"]), numbers))

    async def damage(self, pager: PagerClient) -> str | None:
        """What of its snapshot it tried to read and could not, in words."""
        with contextlib.suppress(TorporError):  # without a pager nobody knows
            damage: str | None = (await pager.stats(self.name))["damage"]
            return damage
        return None

    async def release(self, pager: PagerClient) -> None:
        """It is dead: nothing is kept for it any more."""
        with contextlib.suppress(TorporError):  # a pager that died has forgotten it already
            await pager.drop(self.name)
        self.base.close()
        self.history.close()


@dataclass(eq=False, kw_only=True)
class Lazy(_OnSlot):
    learned: Learned = field(default_factory=Learned)

    warm = False

    async def learn(self, pager: PagerClient) -> None:
        """Note, once the machine is back, which pages that took: those it had to wait for, and
        of those it got ahead the ones that it touched. The next resume gets these ahead."""
        touched = await asyncio.to_thread(self.machine.touched_memory)
        stats: dict[str, Any] = await pager.stats(self.name)
        self.learned = Learned(faults=pages_in(stats["faults"]), touched=touched)


@dataclass(eq=False, kw_only=True)
class Warmed(_OnSlot):
    warm = True

    @property
    def learned(self) -> Learned:
        """It waited for nothing, and of a plain file more is mapped than it touches."""
        return Learned()

    async def learn(self, pager: PagerClient) -> None: ...


Live = Booted | Lazy | Warmed
