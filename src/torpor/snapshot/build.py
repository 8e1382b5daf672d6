"""The difference builder: a parent and the pages that may have changed make a new snapshot.

Pure: it reads the parent's pages through a `PageReader` and returns a manifest and an encoded
layer; nothing is written but to the draft that it is given. Each page is taken for the first of
these that fits:

    zero    all bytes are zero                                    ref 0
    same    equal to the parent's page at the same place          the parent's ref and base
    dup     equal to a page met before in this snapshot           that page's ref and base
    image   equal to a page of the image's root file system       a ref to that file
    xor     differs in little from the page that the parent's     stored as XOR with that page
            page is, or is an XOR of
    plain                                                         stored

An XOR is always against a plain page (a page that is itself an XOR passes on its base), so a
page takes two reads at most, at any depth. Hashes (XXH3) only propose equal pages; bytes are
compared before anything is shared, as a guest could construct collisions.

Neither the changed pages nor the layer are in memory as a whole (`torpor.snapshot.pages`). They
are gone through twice: compared, which leaves some bytes a page to know what becomes of it; and,
in the layer's order, stored. How many are read at a time changes nothing of what is built.

Some pages that the parent has stored are stored again, as they are (`torpor.snapshot.gather`).

In the layer, plain pages come before XORs (unlike data compresses badly together), and in each
kind the hot pages come first: a restore pushes them, and decompresses 64 KiB for each 64 KiB
of them. To lay out a template anew once its hot pages are known, build it again from nothing
with all its pages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.blobs.protocol import Draft
from torpor.core.errors import InternalError
from torpor.snapshot.baselines import ImageIndex
from torpor.snapshot.gather import to_move
from torpor.snapshot.layer import PAGE, EncodedLayer, LayerWriter, Pages
from torpor.snapshot.manifest import LayerRef, Manifest, Region, memory_of, page_count
from torpor.snapshot.pages import (
    Hashes,
    InMemory,
    PageSource,
    Rows,
    Some,
    chunks,
    hashes_of,
    not_zero,
    source_hashes,
)
from torpor.snapshot.reader import PageReader
from torpor.snapshot.refs import Refs, layer_numbers, make_refs, renumber
from torpor.snapshot.seal import Key

# A page is stored as an XOR when at most this share of its words that are not zero differs. Words,
# not bytes: a changed pointer or counter changes one word; and XORs of unlike text compress worse
# than the text. Measured on pages of Python processes: compressing each both ways and taking the
# smaller saves 1 % more than this, and takes longer than all the rest.
_XOR_SHARE = 2 / 3
# zstd's level for a layer of up to so many pages. A few pages are frozen while somebody may answer
# already, and with very many compressing is most of a freeze; between them a tenth fewer bytes cost
# some ten milliseconds. Slower levels save another 2 %.
_LEVELS = ((512, 1), (4096, 6))
_LEVEL_OF_MANY = 1
# The first layer is a template's: made once, kept for long, and the base of all others.
_LEVEL_OF_FIRST = 9
# So many XORs of a region are kept from comparing until they are stored, 8 MiB: as many as most
# snapshots have. Others are made again, for which the parent's frames may be decompressed again.
_XORS_KEPT = 2048
# How many pages are compared with the parent's at a time: 4 MiB, to stay in the processor's cache
# and to bound what a large difference takes.
_COMPARE_PAGES = 1024


@dataclass(frozen=True, eq=False)
class Changed:
    """The pages of a region that may differ from the parent's; all others are the parent's, or
    zero without one. `numbers` are sorted page numbers, row i of `pages` the content of page
    `numbers[i]`, and `hashes[i]` its hash, if they are known. `length` is the region's, in bytes;
    what the last page has beyond it is zero.
    """

    length: int
    numbers: npt.NDArray[np.int64]
    pages: PageSource
    hashes: Hashes | None = None

    @classmethod
    def at_hand(cls, length: int, numbers: npt.NDArray[np.int64], pages: Pages) -> Changed:
        if (
            pages.shape != (len(numbers), PAGE)
            or pages.dtype != np.uint8
            or not pages.flags.c_contiguous
        ):
            raise InternalError(
                f"{len(numbers)} page numbers came with {pages.dtype} {pages.shape}"
            )
        return cls(length, numbers, InMemory(pages))

    def __post_init__(self) -> None:
        if len(self.pages) != len(self.numbers):
            raise InternalError(f"{len(self.numbers)} page numbers came with {len(self.pages)}")
        if len(self.numbers) and (
            self.numbers[0] < 0
            or self.numbers[-1] >= page_count(self.length)
            or (np.diff(self.numbers) <= 0).any()
        ):
            raise InternalError(f"page numbers are not sorted, or beyond {self.length} bytes")

    def hashed(self) -> Changed:
        """The same with its hashes, for which all pages are read."""
        return replace(self, hashes=source_hashes(self.pages))

    def only(self, rows: Rows) -> Changed:
        """The same without the pages that are not in these rows."""
        hashes = None if self.hashes is None else self.hashes[rows]
        return Changed(self.length, self.numbers[rows], Some(self.pages, rows), hashes)


@dataclass(frozen=True)
class Stats:
    """How many pages were handed in, what became of them, how many of the parent's were stored
    again, and the new layer's bytes."""

    changed: int = 0
    zero: int = 0
    same: int = 0
    dup: int = 0
    image: int = 0
    xor: int = 0
    plain: int = 0
    moved: int = 0
    stored_bytes: int = 0


@dataclass(frozen=True)
class Built:
    """A snapshot, ready to be stored. No layer: it needs no new pages."""

    manifest: Manifest
    layer: EncodedLayer | None = None
    stats: Stats = field(default_factory=Stats)


def build(
    parent: Manifest | None,
    parent_pages: PageReader | None,
    changed: Mapping[str, Changed],
    *,
    hot: npt.NDArray[np.integer[Any]],
    facts: Mapping[str, Any],
    dedup: ImageIndex | None = None,
    level: int | None = None,
    key: Key | None = None,
    out: Draft | None = None,
) -> Built:
    """The snapshot that is `parent` with `changed`, and with `hot` and `facts` as its own.

    Regions not in `changed` are the parent's. `dedup` is the image that the machine runs on.
    `level` is zstd's, by default what suits the layer. With a `key`, the layer is sealed. Its
    bytes are written to `out`, or, without that, are in memory.
    """
    layers = list(parent.layers) if parent else []
    regions = dict(parent.regions) if parent else {}
    differences = {
        name: _compare(name, change, regions.get(name), parent_pages)
        for name, change in changed.items()
    }
    hot_region = next(iter({**regions, **differences}), None)
    fresh = _Fresh.gather(differences, hot, hot_region, parent_pages)
    first = _first_equal(fresh)
    own = first == np.arange(len(first))  # the others are dups of one of these

    refs = np.zeros(len(first), np.uint64)
    bases = np.where(own, fresh.bases, np.uint64(0))
    if dedup is not None:
        found = _in_image(dedup, fresh, own)
        raw = LayerRef("raw", dedup.digest, len(dedup.pages))
        if raw not in layers:
            layers.append(raw)
        refs[found >= 0] = make_refs(layers.index(raw), found[found >= 0])
        bases[found >= 0] = 0
    image = refs != 0

    regions |= {name: difference.region for name, difference in differences.items()}
    moved = _Moved.of(parent, parent_pages, regions, bases, hot)
    stored = np.flatnonzero(own & ~image)
    is_xor = np.concatenate((bases[stored] != 0, moved.xor))
    order = np.lexsort((~np.concatenate((fresh.hot[stored], moved.hot)), is_xor))
    places = make_refs(len(layers), order.argsort())
    refs[stored] = places[: len(stored)]
    layer = None
    if len(order):
        if level is None:
            level = _level(len(order), first=not any(layer.kind != "raw" for layer in layers))
        writer = LayerWriter(level=level, key=key, out=out)
        for rows in chunks(len(order)):
            some = order[rows]
            pages = np.empty((len(some), PAGE), np.uint8)
            new = some < len(stored)
            pages[new] = fresh.stored(stored[some[new]])
            pages[~new] = moved.stored(some[~new] - len(stored))
            writer.add(pages)
        layer = writer.finish()
        layers.append(LayerRef("sealed" if key else "zstd", layer.digest, layer.pages))

    _complete(differences, refs[first], bases[first])
    regions = moved.redirected(regions, places[len(stored) :])
    manifest = Manifest(
        *_without_unused(layers, regions),
        hot=np.unique(hot).astype(np.uint32),
        facts=facts,
        parent=parent.digest if parent else None,
    )
    xors = int((bases[own] != 0).sum())
    stats = Stats(
        changed=sum(len(change.numbers) for change in changed.values()),
        zero=sum(difference.zero for difference in differences.values()),
        same=sum(difference.same for difference in differences.values()),
        dup=len(own) - int(own.sum()),
        image=int(image.sum()),
        xor=xors,
        plain=len(stored) - xors,
        moved=len(moved.refs),
        stored_bytes=layer.size if layer else 0,
    )
    return Built(manifest, layer, stats)


def _level(pages: int, *, first: bool) -> int:
    if first:
        return _LEVEL_OF_FIRST
    return next((level for most, level in _LEVELS if pages <= most), _LEVEL_OF_MANY)


@dataclass(frozen=True, eq=False)
class _Difference:
    """A region compared with the parent's. `region` is right but for its fresh pages: `fresh`
    are rows of pages that are neither zero nor the parent's; `hashes` and `bases` are, for each
    of them, its hash and the plain page that it resembles (0: none). `xors` are those with it of
    some rows."""

    region: Region
    change: Changed
    fresh: Rows
    hashes: Hashes
    bases: Refs
    xors: Mapping[int, Pages]
    zero: int
    same: int


def _compare(
    name: str,
    change: Changed,
    before: Region | None,
    parent: PageReader | None,
) -> _Difference:
    refs = _resized(before.refs if before else None, change.length)
    bases = _resized(before.bases if before else None, change.length)
    fresh, hashes, similar = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], []
    xors: dict[int, Pages] = {}
    zero = 0
    for rows in chunks(len(change.numbers)):
        pages, numbers = change.pages.read(rows), change.numbers[rows]
        found = _compare_some(pages, refs[numbers], bases[numbers], parent)
        refs[numbers], bases[numbers] = found.refs, found.bases
        zero += found.zero
        for row, xor in zip(rows[found.xor].tolist(), found.xors, strict=True):
            if len(xors) < _XORS_KEPT:
                xors[row] = xor
        fresh.append(rows[found.fresh])
        similar.append(found.similar[found.fresh])
        known = change.hashes
        hashes.append(hashes_of(pages[found.fresh]) if known is None else known[fresh[-1]])
    new = np.concatenate(fresh)
    return _Difference(
        region=Region(name, change.length, refs, bases),
        change=change,
        fresh=new,
        hashes=np.concatenate(hashes),
        bases=np.concatenate([np.empty(0, np.uint64), *similar]),
        xors=xors,
        zero=zero,
        same=len(change.numbers) - zero - len(new),
    )


@dataclass(frozen=True, eq=False)
class _Some:
    """What `_compare` found of some pages: refs and bases, both 0 where a page is zero or fresh;
    the rows of the fresh ones; for each page the plain page that it resembles, and the XORs with
    it, of rows `xor`; how many are zero."""

    refs: Refs
    bases: Refs
    fresh: Rows
    similar: Refs
    xor: Rows
    xors: list[Pages]
    zero: int


def _compare_some(
    pages: Pages, old_refs: Refs, old_bases: Refs, parent: PageReader | None
) -> _Some:
    filled = not_zero(pages)
    refs = np.where(filled, old_refs, np.uint64(0))
    bases = np.where(filled, old_bases, np.uint64(0))
    same = np.zeros(len(pages), bool)
    similar = np.zeros(len(pages), np.uint64)
    xor_rows, xors = [np.empty(0, np.int64)], list[Pages]()
    roots = np.where(old_bases != 0, old_bases, old_refs)
    comparable = np.flatnonzero(filled & (old_refs != 0))
    comparable = comparable[roots[comparable].argsort(kind="stable")]  # each frame once
    for start in range(0, len(comparable), _COMPARE_PAGES):
        some = comparable[start : start + _COMPARE_PAGES]
        if parent is None:
            raise InternalError("a parent was given without a reader of its pages")
        words = pages[some].view(np.uint64)
        xor = words ^ parent.at(roots[some]).view(np.uint64)
        differing = np.count_nonzero(xor, axis=1)
        # Back to what the root is: the parent's page if that is plain, no XOR any more if not.
        is_root = differing == 0
        refs[some[is_root]] = roots[some[is_root]]
        bases[some[is_root]] = 0
        same[some[is_root]] = True
        based = np.flatnonzero(old_bases[some])
        if len(based):
            kept = parent.at(old_refs[some[based]]).view(np.uint64)
            same[some[based]] |= (xor[based] == kept).all(axis=1)
        little = ~same[some] & (differing <= _XOR_SHARE * np.count_nonzero(words, axis=1))
        similar[some[little]] = roots[some[little]]
        xor_rows.append(some[little])
        xors += list(xor[little].view(np.uint8))
    fresh = np.flatnonzero(filled & ~same)
    refs[fresh] = bases[fresh] = 0
    zero = len(pages) - int(filled.sum())
    return _Some(refs, bases, fresh, similar, np.concatenate(xor_rows), xors, zero)


@dataclass(frozen=True, eq=False)
class _Fresh:
    """The fresh pages of all regions in one row: for each its hash, the plain page that it
    resembles, and whether it is hot; for some the XOR with that page."""

    hashes: Hashes
    bases: Refs
    xors: Mapping[int, Pages]
    hot: npt.NDArray[np.bool_]
    parts: list[tuple[PageSource, Rows]]  # where they are, a region at a time
    parent: PageReader | None

    @classmethod
    def gather(
        cls,
        differences: Mapping[str, _Difference],
        hot: npt.NDArray[np.integer[Any]],
        hot_region: str | None,
        parent: PageReader | None,
    ) -> _Fresh:
        is_hot, xors, start = [np.zeros(0, bool)], dict[int, Pages](), 0
        for name, difference in differences.items():
            numbers = difference.change.numbers[difference.fresh]
            is_hot.append(np.isin(numbers, hot if name == hot_region else ()))
            at = start + difference.fresh.searchsorted(list(difference.xors))
            xors |= zip(at.tolist(), difference.xors.values(), strict=True)
            start += len(difference.fresh)
        every = list(differences.values())
        return cls(
            np.concatenate([np.empty(0, np.uint64), *(each.hashes for each in every)]),
            np.concatenate([np.empty(0, np.uint64), *(each.bases for each in every)]),
            xors,
            np.concatenate(is_hot),
            [(each.change.pages, each.fresh) for each in every],
            parent,
        )

    def read(self, rows: Rows) -> Pages:
        pages = np.empty((len(rows), PAGE), np.uint8)
        start = 0
        for source, fresh in self.parts:
            stop = start + len(fresh)
            these = (start <= rows) & (rows < stop)
            if these.any():
                pages[these] = source.read(fresh[rows[these] - start])
            start = stop
        return pages

    def stored(self, rows: Rows) -> Pages:
        """As they are stored: those that resemble a page as the XOR with it."""
        pages = np.empty((len(rows), PAGE), np.uint8)
        there = np.zeros(len(rows), bool)
        for i, row in enumerate(rows.tolist()):
            if (xor := self.xors.get(row)) is not None:
                pages[i], there[i] = xor, True
        (other,) = (~there).nonzero()
        pages[other] = self.read(rows[other])
        bases = self.bases[rows[other]]
        (differs,) = bases.nonzero()
        if len(differs):
            assert self.parent is not None
            pages[other[differs]] ^= self.parent.at(bases[differs])
        return pages


def _first_equal(fresh: _Fresh) -> Rows:
    """For each page the row of the first that is equal to it; its own if there is none."""
    _, at, inverse = np.unique(fresh.hashes, return_index=True, return_inverse=True)
    first = at[inverse]
    alike = np.flatnonzero(first != np.arange(len(first)))
    for some in chunks(len(alike)):
        rows = alike[some]
        others = rows[(fresh.read(first[rows]) != fresh.read(rows)).any(axis=1)]
        first[others] = others
    return first


def _in_image(index: ImageIndex, fresh: _Fresh, own: npt.NDArray[np.bool_]) -> Rows:
    """For each page of its own the number of the image's page that is equal to it, else -1."""
    found = np.where(own, index.find(fresh.hashes), -1)
    alike = np.flatnonzero(found >= 0)
    for some in chunks(len(alike)):
        rows = alike[some]
        found[rows[(index.pages.read(found[rows]) != fresh.read(rows)).any(axis=1)]] = -1
    return found


@dataclass(frozen=True, eq=False)
class _Moved:
    """Pages that the parent has stored and the new layer gets: where they were, and for each
    whether it is an XOR and whether a hot page needs it."""

    refs: Refs
    xor: npt.NDArray[np.bool_]
    hot: npt.NDArray[np.bool_]
    parent: PageReader | None

    @classmethod
    def of(
        cls,
        parent: Manifest | None,
        parent_pages: PageReader | None,
        regions: Mapping[str, Region],
        bases: Refs,
        hot: npt.NDArray[np.integer[Any]],
    ) -> _Moved:
        """Those that should move, if the new snapshot needs them still: for `regions`, which are
        complete but for their fresh pages, or as `bases` of those."""
        refs = np.empty(0, np.uint64)
        if parent is not None and parent_pages is not None:
            refs = to_move(parent, hot)
        if not len(refs) or parent_pages is None:
            nothing = np.empty(0, bool)
            return cls(refs, nothing, nothing, None)
        columns = [column for r in regions.values() for column in (r.refs, r.bases)]
        refs = refs[np.isin(refs, np.concatenate([*(c[c != 0] for c in columns), bases]))]
        xors = [region.refs[region.bases != 0] for region in regions.values()]
        memory = memory_of(regions)
        hot_refs = [memory.refs[hot], memory.bases[hot]] if memory is not None and len(hot) else []
        return cls(
            refs,
            np.isin(refs, np.concatenate(xors)),
            np.isin(refs, np.concatenate([*hot_refs, bases])),
            parent_pages,
        )

    def stored(self, rows: Rows) -> Pages:
        """As they are stored."""
        if self.parent is None:
            return np.empty((0, PAGE), np.uint8)
        return self.parent.at(self.refs[rows])

    def redirected(self, regions: Mapping[str, Region], places: Refs) -> dict[str, Region]:
        """`regions` with `places` for all refs to these pages."""
        if not len(self.refs):
            return dict(regions)

        def column(refs: Refs) -> Refs:
            (used,) = refs.nonzero()
            at = self.refs.searchsorted(refs[used]).clip(max=len(self.refs) - 1)
            found = self.refs[at] == refs[used]
            new = refs.copy()
            new[used[found]] = places[at[found]]
            return new

        return {
            name: Region(name, region.length, column(region.refs), column(region.bases))
            for name, region in regions.items()
        }


def _complete(differences: Mapping[str, _Difference], refs: Refs, bases: Refs) -> None:
    """Give the regions their fresh pages, at `refs` and `bases`, which are in the order of
    `_Fresh`."""
    start = 0
    for difference in differences.values():
        stop = start + len(difference.fresh)
        numbers = difference.change.numbers[difference.fresh]
        difference.region.refs[numbers] = refs[start:stop]
        difference.region.bases[numbers] = bases[start:stop]
        start = stop


def _without_unused(
    layers: Sequence[LayerRef], regions: Mapping[str, Region]
) -> tuple[tuple[LayerRef, ...], Mapping[str, Region]]:
    """The same without layers that no page needs any more, so that they can be reclaimed."""
    used = np.zeros(len(layers) + 1, bool)
    for region in regions.values():
        at = np.flatnonzero(region.refs)
        used[layer_numbers(region.refs[at])] = True
        used[layer_numbers(region.bases[at])] = True
    used[0] = False
    if used[1:].all():
        return tuple(layers), regions
    numbers = np.where(used, used.cumsum(), 0)
    return (
        tuple(layer for layer, keep in zip(layers, used[1:], strict=True) if keep),
        {
            name: Region(
                name, region.length, renumber(region.refs, numbers), renumber(region.bases, numbers)
            )
            for name, region in regions.items()
        },
    )


def _resized(refs: Refs | None, length: int) -> Refs:
    """A copy, cut off or filled up with zeros to the pages of a region of `length` bytes."""
    new = np.zeros(page_count(length), np.uint64)
    if refs is not None:
        kept = min(len(refs), len(new))
        new[:kept] = refs[:kept]
    return new
