"""The written pages of one disk: a sparse file of the disk's size, and which of its pages count.

Pages that were not written, or whose write failed, are the snapshot's: what the file holds there
has no meaning. A failed write therefore leaves a clean page clean.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from torpor.pager import ranges
from torpor.snapshot.layer import PAGE


class Overlay:
    """Plain blocking calls: they only touch the host's page cache."""

    def __init__(self, path: Path, length: int) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.length = length
        self._written = np.zeros(length // PAGE, dtype=np.bool_)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        os.ftruncate(self._fd, length)

    def has(self, page: int, count: int = 1) -> bool:
        """Were all of these pages written?"""
        return bool(self._written[page : page + count].all())

    def ranges(self) -> list[list[int]]:
        return ranges.of_mask(self._written)

    def read(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)

    def over(self, page: int, base: bytes) -> bytes:
        """`base`, whole pages from `page` on, with what was written laid over it."""
        written = self._written[page : page + len(base) // PAGE]
        if not written.any():
            return base
        merged = bytearray(base)
        for start, count in ranges.of_mask(written):
            low, high = start * PAGE, (start + count) * PAGE
            merged[low:high] = self.read(page * PAGE + low, high - low)
        return bytes(merged)

    def write(self, offset: int, data: bytes) -> None:
        """Store `data`. Pages it covers in part must have been written before. Raises OSError."""
        rest, at = memoryview(data), offset
        while rest:
            done = os.pwrite(self._fd, rest, at)
            rest, at = rest[done:], at + done
        self._written[offset // PAGE : -(-(offset + len(data)) // PAGE)] = True

    def clear(self) -> None:
        """Forget all that was written."""
        self._written[:] = False
        os.ftruncate(self._fd, 0)
        os.ftruncate(self._fd, self.length)

    def unlink(self) -> None:
        """Take the name away; the pages stay readable until `close`."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._fd)
