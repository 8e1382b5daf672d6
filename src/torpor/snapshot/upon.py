"""A snapshot as seen from another one whose pages are at hand, uncompressed: which pages differ,
and their bytes, with as little reading of layers as that takes.

The other is in practice the template of the same agent: most of a run's memory is still what it
was there, or an XOR with it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torpor.snapshot.layer import Pages
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import PageSource
from torpor.snapshot.reader import PageReader
from torpor.snapshot.refs import Refs, renumber

PageNumbers = npt.NDArray[np.int64]


class Upon:
    """The region `name` of `above`, upon that of `below`, which must be as long."""

    def __init__(self, name: str, below: Manifest, above: Manifest) -> None:
        under, over = below.regions[name], above.regions[name]
        known = {layer: number for number, layer in enumerate(below.layers, start=1)}
        # Layers that `below` does not have get numbers beyond its own.
        numbers = [
            known.get(layer, len(below.layers) + own)
            for own, layer in enumerate(above.layers, start=1)
        ]
        as_below = np.array([0, *numbers], np.int64)
        self._above = over
        refs, bases = renumber(over.refs, as_below), renumber(over.bases, as_below)
        self.differing: PageNumbers = np.flatnonzero(
            (refs != under.refs) | (bases != under.bases)
        ).astype(np.int64)
        # Where a page is an XOR with what `below` has, plain, at the same place.
        self._with_own = (bases != 0) & (bases == under.refs) & (under.bases == 0)

    def pages(self, numbers: PageNumbers, below: PageSource, reader: PageReader) -> Pages:
        """The pages `numbers` of `above`, which `reader` reads. `below` are all pages of the
        region below. Raises Damaged."""
        pages = below.read(numbers)
        there = np.isin(numbers, self.differing, assume_unique=True)
        fresh = numbers[there]
        refs, bases = self._above.refs[fresh], self._above.bases[fresh]
        own = self._with_own[fresh]
        stored = reader.at(refs)
        stored[own] ^= pages[there][own]
        _apply(stored, np.flatnonzero((bases != 0) & ~own), bases, reader)
        pages[there] = stored
        return pages


def _apply(pages: Pages, which: PageNumbers, bases: Refs, reader: PageReader) -> None:
    if len(which):
        pages[which] ^= reader.at(bases[which])
