"""The slots and their life. What FUSE operations do to a slot stands here, FUSE itself in `files`.

    empty ──bind──► bound       content may be read, the disk may be written
      └──drop──┬──────┘
               ▼
             gone               no name any more; serves open files until the last is closed

A slot is bound at most once; one without memory, whose machine has that elsewhere, as often as its
machine becomes another, since the kernel caches nothing of a disk. Content is set in one step, and
before pages are pushed: a read that comes while the kernel's cache is being filled is answered like
any other, so a push that waits for a page which a reader has locked cannot deadlock.
"""

from __future__ import annotations

import errno
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import trio

from torpor.core.errors import Conflict, Exhausted, Invalid, NotFound, TorporError
from torpor.pager import ranges
from torpor.pager.content import Content, HotPages, stats_of
from torpor.pager.overlay import Overlay
from torpor.snapshot.layer import PAGE
from torpor.snapshot.reader import Tally

MEMORY_BYTES_MAX = DISK_BYTES_MAX = 1 << 40
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# Puts pages into the kernel's cache of a slot's memory; returns how many it took. Blocking.
Push = Callable[["Slot", HotPages], int]


class Node(IntEnum):
    """What of a slot an inode is: number = serial * 3 + node. None is ever used twice, and the
    first serial is 1, which leaves 1 to the root."""

    DIRECTORY = 0
    MEMORY = 1
    DISK = 2


class Slot:
    def __init__(self, name: str, serial: int, memory: int, overlay: Overlay) -> None:
        self.name = name
        self.serial = serial
        self.sizes = {Node.MEMORY: memory, Node.DISK: overlay.length}
        self.overlay = overlay
        self.gone = False
        self._content: Content | None = None
        self._settled = trio.Event()  # bound or gone: nothing left to wait for
        self._opened = 0
        self._writing = trio.Lock()
        self._faults = np.zeros(memory // PAGE, dtype=np.bool_)
        self._reads = 0
        self._bytes = 0
        self._pushed = 0
        self._push_ms = 0.0
        self._damage: str | None = None

    def inode(self, node: Node) -> int:
        return self.serial * len(Node) + node

    async def bind(self, content: Content, push: Push | None) -> None:
        """Give the slot its content, then push its hot pages. Raises Conflict, Invalid, Damaged;
        the slot is as before then."""
        self._require_bindable(content)
        hot = await trio.to_thread.run_sync(content.hot_pages) if push else None
        self._require_bindable(content)  # another request may have come first meanwhile
        if self._content is not None:
            self.overlay.clear()
        self._content = content
        self._settled.set()
        if push and hot is not None:
            start = time.perf_counter()
            self._pushed = await trio.to_thread.run_sync(push, self, hot)
            self._push_ms = (time.perf_counter() - start) * 1000

    def _require_bindable(self, content: Content) -> None:
        if self.gone:
            raise Conflict(f"slot {self.name} was dropped before it was bound")
        if self._content is not None and self.sizes[Node.MEMORY]:
            raise Conflict(
                f"slot {self.name} is bound already", hint="Create a new slot for each machine."
            )
        for what, node in (("memory", Node.MEMORY), ("disk", Node.DISK)):
            if node is Node.MEMORY and not self.sizes[node]:
                continue
            if content.length(what) != self.sizes[node]:
                raise Invalid(
                    f"slot {self.name} has {self.sizes[node]:,} bytes of {what}, "
                    f"the snapshot {content.length(what):,}",
                    hint="Create the slot with the snapshot's sizes.",
                )

    async def read(self, node: Node, offset: int, length: int) -> bytes:
        """Bytes of a file, fewer at its end. Raises OSError."""
        length = max(0, min(length, self.sizes[node] - offset))
        if not length:
            return b""
        data = await (self._read_memory if node is Node.MEMORY else self._read_disk)(offset, length)
        self._reads += 1
        self._bytes += length
        return data

    async def _read_memory(self, offset: int, length: int) -> bytes:
        if self._content is None:
            await self._settled.wait()
        data = await self._base("memory", offset, length)
        self._faults[offset // PAGE : _pages(offset + length)] = True
        return data

    async def _read_disk(self, offset: int, length: int) -> bytes:
        page, end = offset // PAGE, _pages(offset + length)
        if self.overlay.has(page, end - page):
            return self.overlay.read(offset, length)
        if self._content is None and not self.gone:
            return bytes(length)
        base = await self._base("disk", page * PAGE, (end - page) * PAGE)
        skip = offset - page * PAGE
        return self.overlay.over(page, base)[skip : skip + length]

    async def write(self, node: Node, offset: int, data: bytes) -> None:
        """Write to the disk. Pages written in part are completed from the snapshot. One write at a
        time: two that complete the same page would lose one of them. Raises OSError."""
        if node is not Node.DISK or self._content is None:
            raise OSError(errno.EROFS, f"{node.name} of slot {self.name} is read-only now")
        end = offset + len(data)
        if end > self.sizes[node]:
            raise OSError(errno.ENOSPC, f"write behind the end of the disk of slot {self.name}")
        async with self._writing:
            if offset % PAGE and not self.overlay.has(offset // PAGE):
                start = offset // PAGE * PAGE
                data = (await self._base("disk", start, PAGE))[: offset - start] + data
                offset = start
            if end % PAGE and not self.overlay.has(end // PAGE):
                start = end // PAGE * PAGE
                data += (await self._base("disk", start, PAGE))[end - start :]
            self.overlay.write(offset, data)

    async def _base(self, region: str, offset: int, length: int) -> bytes:
        """Bytes of the snapshot. What is wrong with it is remembered, and is EIO to the reader."""
        if self._content is None:
            raise OSError(errno.EIO, f"slot {self.name} was dropped before it was bound")
        try:
            return await self._content.read(region, offset, length)
        except (TorporError, OSError) as error:
            self._damage = self._damage or str(error)
            raise OSError(errno.EIO, str(error)) from error

    def opened(self) -> None:
        self._opened += 1

    def closed(self) -> bool:
        """One open file less. True if that was the last thing that held a dropped slot."""
        self._opened -= 1
        return self._release()

    def drop(self) -> bool:
        """True if no open file holds the slot."""
        self.gone = True
        self._settled.set()
        self.overlay.unlink()
        return self._release()

    def _release(self) -> bool:
        over = self.gone and not self._opened
        if over:
            self.overlay.close()
        return over

    def stats(self) -> dict[str, Any]:
        return stats_of(self._content.tally if self._content else Tally()) | {
            "reads": self._reads,
            "bytes": self._bytes,
            "pushed": self._pushed,
            "push_ms": round(self._push_ms, 3),
            "faults": ranges.of_mask(self._faults),
            "damage": self._damage,
        }


class Slots:
    """All slots: by name while they have one, by inode while anything can reach them."""

    def __init__(self, machines: Path) -> None:
        self._machines = machines
        self._named: dict[str, Slot] = {}
        self._serials: dict[int, Slot] = {}
        self._next = count(1)
        self._dropped: Counter[str] = Counter()  # sums over the slots there were

    def __iter__(self) -> Iterator[Slot]:
        """Slots that have a name, oldest first."""
        return iter(tuple(self._named.values()))

    def create(self, name: str, memory: int, disk: int) -> Slot:
        if not _NAME.fullmatch(name):
            raise Invalid(
                f"{name!r} is not a slot name",
                hint="Up to 64 letters, digits, '.', '_' and '-', a letter or digit first.",
            )
        if name in self._named:
            raise Conflict(f"there is a slot {name} already", hint="Drop it first.")
        _require_size("memory", memory, 0, MEMORY_BYTES_MAX)
        _require_size("disk", disk, 0, DISK_BYTES_MAX)
        path = self._machines / name / "disk.overlay"
        try:
            overlay = Overlay(path, disk)
        except OSError as error:
            raise Exhausted(
                f"cannot create {path}: {error.strerror}", hint="Is the data directory's disk full?"
            ) from error
        slot = Slot(name, next(self._next), memory, overlay)
        self._named[name] = self._serials[slot.serial] = slot
        return slot

    def get(self, name: str) -> Slot:
        slot = self._named.get(name)
        if slot is None:
            raise NotFound(f"there is no slot {name!r}")
        return slot

    def totals(self) -> dict[str, Any]:
        """Sums over all slots that there are and were; `damaged` is how many of them."""
        each = [self._dropped, *map(_sums, self)]
        return {key: sum(sums[key] for sums in each) for key in _SUMMED}

    def find(self, name: str) -> Slot | None:
        return self._named.get(name)

    def by_inode(self, inode: int) -> tuple[Slot, Node]:
        """Raises KeyError if there is none."""
        serial, node = divmod(inode, len(Node))
        return self._serials[serial], Node(node)

    def drop(self, name: str) -> Slot:
        slot = self.get(name)
        self._dropped.update(_sums(slot))
        del self._named[name]
        if slot.drop():
            del self._serials[slot.serial]
        return slot

    def closed(self, slot: Slot) -> None:
        """A file of `slot` was closed."""
        if slot.closed():
            del self._serials[slot.serial]


_SUMMED = ("reads", "bytes", "pushed", "push_ms", "damaged")


def _sums(slot: Slot) -> dict[str, Any]:
    stats = slot.stats()
    stats["damaged"] = int(stats["damage"] is not None)
    return {key: stats[key] for key in _SUMMED}


def _pages(length: int) -> int:
    return -(-length // PAGE)


def _require_size(what: str, size: int, low: int, high: int) -> None:
    if not low <= size <= high or size % PAGE:
        raise Invalid(f"{what} of {size} bytes: multiples of {PAGE} from {low} to {high} are taken")
