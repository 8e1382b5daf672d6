"""Pages that are somewhere, and are read when they are needed.

A snapshot may be of gigabytes. Whoever makes it reads its pages a chunk at a time, some of them
more than once: to compare, to tell whether two are equal, to store. So they are handed on as a
`PageSource`, and what is held at a time is a few chunks, however many pages there are.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from torpor.snapshot.layer import FRAME_PAGES, PAGE, Pages

Hashes = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

# What is read at a time, whole frames: 8 MiB. Four times as much is not read any faster.
CHUNK_PAGES = 128 * FRAME_PAGES


class PageSource(Protocol):
    """`len` pages. They are the same whenever they are read."""

    def __len__(self) -> int: ...

    def read(self, rows: Rows) -> Pages:
        """These pages, in this order, contiguous."""


class InMemory:
    """Pages that are at hand."""

    def __init__(self, pages: Pages) -> None:
        self.pages = pages

    def __len__(self) -> int:
        return len(self.pages)

    def read(self, rows: Rows) -> Pages:
        return self.pages[rows]


class Some:
    """Those pages of another source that `rows` name, in this order."""

    def __init__(self, source: PageSource, rows: Rows) -> None:
        self._source, self._rows = source, rows

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, rows: Rows) -> Pages:
        return self._source.read(self._rows[rows])


def chunks(count: int) -> Iterator[Rows]:
    """The rows of `count` pages, as many at a time as may be read."""
    for start in range(0, count, CHUNK_PAGES):
        yield np.arange(start, min(start + CHUNK_PAGES, count))


def hashes_of(pages: Pages) -> Hashes:
    """The XXH3 of each page, 64 bits."""
    if not len(pages):  # a memoryview of no pages cannot be cast
        return np.empty(0, np.uint64)
    flat = pages.data.cast("B")
    views = (flat[at : at + PAGE] for at in range(0, len(flat), PAGE))
    return np.fromiter(map(xxhash.xxh3_64_intdigest, views), np.uint64, len(pages))


def source_hashes(source: PageSource) -> Hashes:
    """As `hashes_of`, of all that a source has."""
    hashes = np.empty(len(source), np.uint64)
    for rows in chunks(len(source)):
        hashes[rows] = hashes_of(source.read(rows))
    return hashes


def not_zero(pages: Pages) -> npt.NDArray[np.bool_]:
    """For each page whether any bit of it is set."""
    any_bit: npt.NDArray[np.uint64] = np.bitwise_or.reduce(pages.view(np.uint64), axis=1)
    return any_bit.astype(np.bool_)


def page_ranges(numbers: Rows) -> tuple[Rows, Rows]:
    """Ascending page numbers as ranges: (first numbers, lengths)."""
    if not len(numbers):
        return numbers, numbers
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = np.concatenate(([0], breaks))
    ends = np.concatenate((breaks, [len(numbers)]))
    return numbers[starts], (ends - starts).astype(np.int64)


class InFile:
    """The pages `numbers` of a file, or all of them. What is beyond its end is zero.

    Read, not mapped: what is mapped counts as this process's memory for as long as it is. The file
    is open until nobody refers to this any more.
    """

    def __init__(self, path: Path, numbers: Rows | None = None) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)
        self.path = path
        self._numbers = numbers
        self._count = os.fstat(self._fd).st_size // PAGE if numbers is None else len(numbers)

    def __len__(self) -> int:
        return self._count

    def read(self, rows: Rows) -> Pages:
        pages = np.empty((len(rows), PAGE), np.uint8)
        at = 0
        flat = pages.reshape(-1).data
        numbers = rows if self._numbers is None else self._numbers[rows]
        for first, count in zip(*page_ranges(numbers), strict=True):
            end = at + int(count) * PAGE
            self._read(flat[at:end], int(first) * PAGE)
            at = end
        return pages

    def _read(self, into: memoryview, offset: int) -> None:
        while len(into):
            got = os.preadv(self._fd, [into], offset)
            if not got:
                into[:] = bytes(len(into))
                return
            into, offset = into[got:], offset + got
