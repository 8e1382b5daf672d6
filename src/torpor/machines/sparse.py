"""Files as pages: which of a disk hold data, and copies that keep the holes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from torpor.core.errors import HostError
from torpor.engine.memory import PAGE, PageNumbers
from torpor.snapshot.build import Changed
from torpor.snapshot.pages import InMemory


def whole(data: bytes) -> Changed:
    pages = -(-len(data) // PAGE)
    padded = np.zeros((pages, PAGE), dtype=np.uint8)
    padded.reshape(-1)[: len(data)] = np.frombuffer(data, dtype=np.uint8)
    return Changed(len(data), np.arange(pages, dtype=np.int64), InMemory(padded))


def pages_in(ranges: list[list[int]]) -> PageNumbers:
    """The pages of `[start, count]` pairs, as the pager gives them."""
    parts = [np.arange(start, start + count, dtype=np.int64) for start, count in ranges]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def data_pages(path: Path, length: int) -> PageNumbers:
    """Pages of a sparse file that are not in a hole."""
    parts = [
        np.arange(start // PAGE, -(-end // PAGE), dtype=np.int64)
        for start, end in data_extents(path, length)
    ]
    return np.unique(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)


def data_extents(path: Path, length: int) -> Iterator[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY)
    try:
        end = 0
        while end < length:
            try:
                start = os.lseek(fd, end, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            end = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, end
    finally:
        os.close(fd)


async def copy_sparse(source: Path, target: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *("cp", "--sparse=always", "--reflink=auto", str(source), str(target)),
        stderr=asyncio.subprocess.PIPE,
    )
    _, printed = await process.communicate()
    if process.returncode:
        raise HostError(f"cannot create a disk: {printed.decode(errors='replace').strip()}")
