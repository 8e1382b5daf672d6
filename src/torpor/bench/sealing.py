"""What sealing costs: the same pages written as a layer and read back, in the clear and sealed, in
turns, so that whatever else the host does meets both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torpor.bench.stats import Spread, spread
from torpor.snapshot.layer import PAGE, LayerReader, Pages, SealedReader, write_layer
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore

TURNS = 10
BYTES_MAX = 128 << 20


@dataclass(frozen=True)
class Cost:
    """Of one layer of `bytes` before compression, written; and of a frame of 64 KiB, read."""

    bytes: int
    write_ms: Spread
    write_sealed_ms: Spread
    frame_us: Spread
    frame_sealed_us: Spread

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def memory_of(store: SnapshotStore, manifest: str) -> Pages:
    """Pages of a clear snapshot's memory that are not zero, BYTES_MAX of them at most."""
    loaded = store.load(manifest)
    numbers = np.flatnonzero(loaded.regions["memory"].refs)[: BYTES_MAX // PAGE]
    return store.reader(loaded, FrameCache(BYTES_MAX)).pages("memory", numbers)


def measure(pages: Pages, directory: Path) -> Cost:
    """Blocks. Needs room for two layers of the pages in `directory`."""
    key = Key.new()
    paths = directory / "clear", directory / "sealed"
    for path, seal in zip(paths, (None, key), strict=True):
        path.write_bytes(b"".join(write_layer(pages, key=seal).chunks))
    readers = LayerReader(paths[0]), SealedReader(paths[1], key)
    writes = _in_turns(TURNS, lambda _: write_layer(pages), lambda _: write_layer(pages, key=key))
    frames = _in_turns(readers[0].frames, readers[0].frame, readers[1].frame)
    for path in paths:
        path.unlink()
    return Cost(
        pages.nbytes,
        *(spread([seconds * 1e3 for seconds in each]) for each in writes),
        *(spread([seconds * 1e6 for seconds in each]) for each in frames),
    )


def _in_turns(count: int, *works: Callable[[int], object]) -> list[list[float]]:
    """Seconds of each of `works` with 0, 1, … count - 1; which one begins alternates."""
    taken: list[list[float]] = [[] for _ in works]
    for n in range(count):
        for i in range(len(works)):
            which = (i + n) % len(works)
            started = time.perf_counter()
            works[which](n)
            taken[which].append(time.perf_counter() - started)
    return taken
