"""What snapshots are compared with besides their parents, and what is learned for the next restore.

Baselines are what most machines have in common, so that it is referred to and not stored: the pages
of an image's root file system, which much of memory is cache of (`ImageIndex`), and the kernel as
it lies in the memory of a machine that has booted (`kernel_in_memory`). Both are in the image.

Hot pages are those of a snapshot that a restore is given ahead (`hot_pages`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from torpor.core.errors import Invalid
from torpor.snapshot.layer import PAGE
from torpor.snapshot.manifest import LayerRef, Manifest, Region, page_count
from torpor.snapshot.pages import Hashes, InFile, PageSource, chunks, hashes_of, not_zero
from torpor.snapshot.refs import make_refs

Numbers = npt.NDArray[np.int64]  # of pages, ascending

# More pages than this changed in one go are work, not the way back from a freeze: only the
# latter is worth pushing ahead of the next resume.
HOT_CHANGED_MAX = 1024
_TABLE = np.dtype([("hash", "<u8"), ("page", "<u4")])


class ImageIndex:
    """Finds pages in an image's root file system. `pages` are the file's; `table` is what
    `build_index` made of them."""

    def __init__(self, digest: str, pages: PageSource, table: npt.NDArray[np.void]) -> None:
        self.digest = digest
        self.pages = pages
        self._hashes: Hashes = np.ascontiguousarray(table["hash"])
        self._numbers = table["page"].astype(np.int64)
        if table.dtype != _TABLE or (self._numbers >= len(pages)).any():
            raise Invalid(f"the page index of image {digest} does not belong to it")

    @classmethod
    def open(cls, digest: str, image: Path, table: Path) -> ImageIndex:
        """Of the file system at `image` and its index, saved with numpy at `table`."""
        return cls(digest, _file_pages(image), np.load(table, allow_pickle=False))

    def find(self, hashes: Hashes) -> Numbers:
        """For each hash the number of a page that has it, -1 where there is none."""
        if not len(self._hashes):
            return np.full(len(hashes), -1, np.int64)
        at = self._hashes.searchsorted(hashes).clip(max=len(self._hashes) - 1)
        return np.where(self._hashes[at] == hashes, self._numbers[at], -1)


def build_index(image: Path) -> npt.NDArray[np.void]:
    """The table of an `ImageIndex`: hash and number of each page that is not zero, by hash."""
    source = _file_pages(image)
    numbers, hashes = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for rows in chunks(len(source)):
        pages = source.read(rows)
        some = np.flatnonzero(not_zero(pages))
        numbers.append(rows[some])
        hashes.append(hashes_of(pages[some]))
    known, first = np.unique(np.concatenate(hashes), return_index=True)
    table = np.empty(len(known), _TABLE)
    table["hash"], table["page"] = known, np.concatenate(numbers)[first]
    return table


@dataclass(frozen=True)
class Kernel:
    """Where a kernel lies: from page `first_page` of memory on, `pages` long; in the file `image`,
    from page `at` on."""

    first_page: int
    pages: int
    image: LayerRef
    at: int


def kernel_in_memory(region: str, length: int, touched: Numbers, kernel: Kernel) -> Manifest:
    """What a booted machine is compared with: memory, the `region`, that holds the kernel's file
    and else zeros. Only pages that the boot touched: the others are zero in truth."""
    refs = np.zeros(page_count(length), dtype=np.uint64)
    pages = np.arange(kernel.pages, dtype=np.uint64)
    refs[kernel.first_page : kernel.first_page + kernel.pages] = make_refs(0, kernel.at + pages)
    untouched = np.ones(len(refs), dtype=bool)
    untouched[touched] = False
    refs[untouched] = 0
    memory = Region(region, length, refs, np.zeros_like(refs))
    return Manifest((kernel.image,), {region: memory}, hot=np.empty(0, np.uint32), facts={})


@dataclass(frozen=True)
class Learned:
    """What a machine's way back has shown: pages that it had to wait for, and all that it touched.
    None: nothing was learned."""

    faults: Numbers | None = None
    touched: Numbers | None = None


def hot_pages(before: npt.NDArray[np.integer[Any]], learned: Learned, changed: Numbers) -> Numbers:
    """Those of a machine's next snapshot: of the ones it got ahead those that it touched, those
    that it had to wait for, and what changed on the way to the freeze."""
    hot = before.astype(np.int64)
    parts = [hot if learned.touched is None else np.intersect1d(hot, learned.touched)]
    if learned.faults is not None:
        parts.append(learned.faults)
    if len(changed) <= HOT_CHANGED_MAX:
        parts.append(changed)
    return np.unique(np.concatenate(parts))


def _file_pages(path: Path) -> InFile:
    size = path.stat().st_size
    if not size or size % PAGE:
        raise Invalid(f"{path}: its {size} bytes are not whole pages of {PAGE}")
    return InFile(path)
