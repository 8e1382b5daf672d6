"""Snapshots opened for reading, and reads that do not hold up the others.

A read whose frames are all in the cache is answered at once, in the trio thread: handing it to
another thread would take longer than the read. Any other may have to wait for the disk and for
zstd, and goes to a few worker threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import trio

from torpor.blobs.local import LocalBlobs
from torpor.core.home import Home
from torpor.core.memory import PAGER_SNAPSHOTS_MAX
from torpor.pager.ranges import Numbers, bridged
from torpor.snapshot.layer import Pages
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.reader import FrameCache, PageReader, Tally
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore

# One push of a run costs more than the pages of a small gap: between two hot pages at most this
# many others are pushed along (measured, 2,034 pages: 570 ranges instead of 1,100).
HOT_GAP_PAGES = 2
COLD_READS_MAX = 4


@dataclass(frozen=True)
class HotPages:
    numbers: Numbers  # of pages of memory, ascending
    pages: Pages


class Frames(FrameCache):
    def has(self, layer: str, frame: int) -> bool:
        """Is it there now? Neither counts as use nor waits for a lock."""
        return (layer, frame) in self._frames


class Content:
    """One snapshot's memory and disk. Reads may raise Damaged."""

    def __init__(self, reader: PageReader, frames: Frames, cold: trio.CapacityLimiter) -> None:
        self._reader = reader
        self._manifest: Manifest = reader.manifest
        self._frames = frames
        self._cold = cold

    def counted_apart(self) -> Content:
        """The same content with a tally of its own."""
        return Content(self._reader.counted_apart(), self._frames, self._cold)

    @property
    def tally(self) -> Tally:
        return self._reader.tally

    def length(self, region: str) -> int:
        known = self._manifest.regions.get(region)
        return known.length if known else 0

    async def read(self, region: str, offset: int, length: int) -> bytes:
        frames = self._reader.frames(region, offset, length)
        if all(self._frames.has(*frame) for frame in frames):
            return self._reader.read(region, offset, length)
        return await trio.to_thread.run_sync(
            self._reader.read, region, offset, length, limiter=self._cold
        )

    def hot_pages(self) -> HotPages:
        """The memory that a restore is known to need, and small gaps in it. Blocking."""
        numbers = bridged(self._manifest.hot.astype(np.int64), gap=HOT_GAP_PAGES)
        memory = self._manifest.memory
        assert memory is not None
        return HotPages(numbers, self._reader.pages(memory.name, numbers))


class Contents:
    """Opens the snapshots of a data directory; they share one cache of frames."""

    def __init__(self, home: Home, cache_bytes: int) -> None:
        self._frames = Frames(cache_bytes)
        cold = trio.CapacityLimiter(COLD_READS_MAX)

        def image(digest: str) -> Path:
            return home.images / digest / "root.erofs"

        store = SnapshotStore(LocalBlobs(home.blobs), image)

        def open_(manifest: str, key: Key | None) -> Content:
            reader = store.reader(store.load(manifest, key), self._frames, key)
            return Content(reader, self._frames, cold)

        self._open_sealed = open_
        # Kept for the next bind beside those that slots use: in practice the templates that runs
        # start from. A machine's manifest takes about 10 MB.
        self._open = lru_cache(PAGER_SNAPSHOTS_MAX)(partial(open_, key=None))

    def open(self, manifest: str, key: Key | None = None) -> Content:
        """Raises NotFound, Damaged. Blocking, for worker threads. What a key opened is not kept
        for others, or the key would outlive its slot."""
        return (
            self._open(manifest).counted_apart()
            if key is None
            else self._open_sealed(manifest, key)
        )

    def clear(self) -> None:
        """Forget all that is only there to be faster."""
        self._frames.clear()
        self._open.cache_clear()

    def stats(self) -> dict[str, int]:
        """Of all slots there ever were, and of what was read beside them."""
        return stats_of(Tally(self._frames.hits, self._frames.misses))


def stats_of(tally: Tally) -> dict[str, int]:
    """`frames`: how many were decompressed."""
    return {"frames": tally.misses, "hits": tally.hits, "misses": tally.misses}
