"""A region's pages as ranges, and ranges as bytes.

A page range is a number of neighbouring pages that lie side by side in a layer. Ranges are stored
as columns of numbers, one a range, and what makes columns small is that they are predictable:

- Gaps between ranges and lengths of ranges are small numbers.
- Within each layer, ranges lie about in the order of the region's pages: a position is stored as
  the difference to where the range before *of the same layer* ended, and positions of one layer
  stand together. (The first version took the range before, of whichever layer: twice as many
  bytes.)
- Most numbers are small, so their high bytes are zero: columns are stored as four planes, first all
  the low bytes, then those above them, and so on.

docs/formats/manifest.md has both versions byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torpor.snapshot.refs import Refs, layer_numbers, positions

Numbers = npt.NDArray[np.int64]
# The next so many bytes of what is being read.
Take = Callable[[int], bytes]

_PLANES = 4
_MODULUS = 1 << 32


@dataclass(frozen=True, eq=False)
class PageRanges:
    """The pages of a region that are not zero, each field with an element for each run: zero pages
    before it, pages in it, layer number and position of its first page; the same of what that is
    an XOR with, 0 where it is none."""

    gaps: Numbers
    lengths: Numbers
    layers: Numbers
    places: Numbers
    base_layers: Numbers
    base_places: Numbers

    @classmethod
    def of(cls, all_refs: Refs, all_bases: Refs) -> PageRanges:
        # Zeros are most of a region, so all but one look at it goes to the rest of it.
        at = np.flatnonzero(all_refs)
        refs, bases = all_refs[at], all_bases[at]
        follows = (np.diff(at) == 1) & (np.diff(refs) == 1)
        follows &= bases[1:] == bases[:-1] + (bases[:-1] != 0)
        starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(at)), bool), ~follows)))
        lengths = np.diff(starts, append=len(at))
        return cls(
            _to_differences(at[starts], lengths),
            lengths,
            layer_numbers(refs[starts]),
            positions(refs[starts]),
            layer_numbers(bases[starts]),
            positions(bases[starts]),
        )

    def expand(self, pages: int) -> tuple[Refs, Refs]:
        """Refs and bases of a region of so many pages, which the ranges must not leave."""
        refs, bases = np.zeros(pages, np.uint64), np.zeros(pages, np.uint64)
        lengths = self.lengths
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        at = np.repeat(_from_differences(self.gaps, lengths), lengths) + within
        first = (self.layers << 32) | self.places
        refs[at] = (np.repeat(first, lengths) + within).astype(np.uint64)
        if self.base_layers.any():
            first = (self.base_layers << 32) | self.base_places
            based = np.repeat(self.base_layers != 0, lengths)
            bases[at] = ((np.repeat(first, lengths) + within) * based).astype(np.uint64)
        return refs, bases


def encode(ranges: PageRanges) -> bytes:
    """As version 2 has it."""
    based = ranges.base_layers != 0
    return b"".join(
        to_planes(column)
        for column in (
            ranges.gaps,
            ranges.lengths,
            ranges.layers,
            ranges.base_layers,
            _to_grouped(ranges.layers, ranges.places, ranges.lengths),
            _to_grouped(
                ranges.base_layers[based], ranges.base_places[based], ranges.lengths[based]
            ),
        )
    )


def decode(count: int, take: Take) -> PageRanges:
    """`count` page ranges of version 2. Nothing about them is checked but that they are there."""
    gaps, lengths, layers, base_layers, grouped = (from_planes(count, take) for _ in range(5))
    based = base_layers != 0
    base_places = np.zeros(count, np.int64)
    base_grouped = from_planes(int(based.sum()), take)
    base_places[based] = _from_grouped(base_layers[based], base_grouped, lengths[based])
    places = _from_grouped(layers, grouped, lengths)
    return PageRanges(gaps, lengths, layers, places, base_layers, base_places)


def decode_1(count: int, take: Take) -> PageRanges:
    """`count` page ranges of version 1."""
    column = np.frombuffer(take(count * 24), "<u4").reshape(6, count).astype(np.int64)
    gaps, lengths, layers, places, base_layers, base_places = column
    return PageRanges(
        gaps,
        lengths,
        layers,
        _from_differences(places, lengths),
        base_layers,
        np.where(base_layers != 0, _from_differences(base_places, lengths), 0),
    )


def to_planes(column: npt.NDArray[np.integer]) -> bytes:
    """Numbers below 2³² as all their lowest bytes, all those above these, and so on."""
    return column.astype("<u4").view(np.uint8).reshape(-1, _PLANES).T.tobytes()


def from_planes(count: int, take: Take) -> Numbers:
    planes = np.frombuffer(take(count * _PLANES), np.uint8).reshape(_PLANES, count)
    return np.ascontiguousarray(planes.T).view("<u4").reshape(-1).astype(np.int64)


def _to_grouped(groups: Numbers, places: Numbers, lengths: Numbers) -> Numbers:
    """In the order of their groups, each place less the end of the one before in its group."""
    order = groups.argsort(kind="stable")
    places, lengths = places[order], lengths[order]
    ends = np.concatenate((np.zeros(min(1, len(order)), np.int64), (places + lengths)[:-1]))
    ends[_firsts(groups[order])] = 0
    signed = (places - ends + _MODULUS // 2) % _MODULUS - _MODULUS // 2
    # Small numbers of either sign to small ones: 0, -1, 1, -2 become 0, 1, 2, 3.
    return (signed << 1) ^ (signed >> 63)


def _from_grouped(groups: Numbers, differences: Numbers, lengths: Numbers) -> Numbers:
    order = groups.argsort(kind="stable")
    signed = (differences >> 1) ^ -(differences & 1)
    ends = (signed + lengths[order]).cumsum()
    firsts = _firsts(groups[order])
    sizes = np.diff(firsts, append=len(order))
    before = np.repeat(np.concatenate((np.zeros(1, np.int64), ends))[firsts], sizes)
    places = np.empty(len(order), np.int64)
    places[order] = (ends - before - lengths[order]) % _MODULUS
    return places


def _firsts(groups: Numbers) -> Numbers:
    """Indices at which another group begins, of groups that stand together."""
    return np.flatnonzero(np.diff(groups, prepend=-1))


def _to_differences(starts: Numbers, lengths: Numbers) -> Numbers:
    """Each start less the end of the run before."""
    ends = np.concatenate((np.zeros(1, np.int64), starts + lengths))[:-1]
    return starts - ends


def _from_differences(differences: Numbers, lengths: Numbers) -> Numbers:
    before = lengths.cumsum() - lengths
    return np.bitwise_and(differences.cumsum() + before, _MODULUS - 1)
