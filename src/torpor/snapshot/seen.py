"""Which of the pages that an engine calls changed have really changed since the last snapshot.

An engine may name every page that was written since the machine was started, and of a machine that
was warm also those that it was made from. Most of them are what they were at the last snapshot.
A hash (XXH3, 64 bits) of each tells so without reading the last snapshot. Where content collides
by a guest's design, it is that guest's own next snapshot that keeps the older page.
"""

from __future__ import annotations

import numpy as np

from torpor.snapshot.build import Changed
from torpor.snapshot.manifest import page_count
from torpor.snapshot.pages import Hashes


class Seen:
    """The hashes of one region's pages in the last snapshot, as far as they are known."""

    def __init__(self) -> None:
        self._hashes: Hashes = np.zeros(0, np.uint64)  # 0: not known

    def note(self, pages: Changed) -> None:
        """In the last snapshot these were the region's pages; their hashes are known."""
        assert pages.hashes is not None
        if not len(self._hashes):
            self._hashes = np.zeros(page_count(pages.length), np.uint64)
        self._hashes[pages.numbers] = pages.hashes

    def without_known(self, changed: Changed) -> Changed:
        """`changed`, whose hashes are known, without the pages that are as they were."""
        assert changed.hashes is not None
        if not len(self._hashes):
            return changed
        (new,) = np.nonzero(self._hashes[changed.numbers] != changed.hashes)
        return changed if len(new) == len(changed.numbers) else changed.only(new)
