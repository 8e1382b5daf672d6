"""Which of the pages that an engine calls changed have really changed since the last snapshot.

An engine may name every page that was written since the machine was started, and of a machine that
was warm also those that it was made from. Most of them are what they were at the last snapshot.
A hash (XXH3, 64 bits) of each tells so without reading the last snapshot. Where content collides
by a guest's design, it is that guest's own next snapshot that keeps the older page.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

from torpor.snapshot.build import Changed
from torpor.snapshot.layer import PAGE, Pages

Hashes = npt.NDArray[np.uint64]


def page_hashes(pages: Pages) -> Hashes:
    if not len(pages):  # a memoryview of no pages cannot be cast
        return np.empty(0, np.uint64)
    flat = pages.data.cast("B")
    views = (flat[at : at + PAGE] for at in range(0, len(flat), PAGE))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, views), np.uint64, len(pages))


class Seen:
    """The hashes of one region's pages in the last snapshot, as far as they are known."""

    def __init__(self) -> None:
        self._hashes: Hashes = np.zeros(0, np.uint64)  # 0: not known

    def note(self, length: int, numbers: npt.NDArray[np.int64], hashes: Hashes) -> None:
        """In the last snapshot, of a region of `length` bytes, these pages had these hashes."""
        if not len(self._hashes):
            self._hashes = np.zeros(length // PAGE, np.uint64)
        self._hashes[numbers] = hashes

    def without_known(self, changed: Changed, hashes: Hashes) -> Changed:
        """`changed`, whose pages have these hashes, without those that are as they were."""
        if not len(self._hashes):
            return changed
        (new,) = np.nonzero(self._hashes[changed.numbers] != hashes)
        if len(new) == len(changed.numbers):
            return changed
        return Changed(changed.length, changed.numbers[new], changed.pages[new])
