"""Small snapshots of made-up machines, and system calls that fail at a chosen point."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torpor.blobs.local import LocalBlobs
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import LAYERS, MANIFESTS, SnapshotStore, Stored

PAGES = 40
NOTHING_HOT = np.empty(0, np.int64)
# The system calls by which anything comes to the disk or goes from it.
_utime = os.utime  # never one that fails
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY
CALLS = ("open", "writev", "fdatasync", "fsync", "utime", "rename", "unlink", "mkdir")


def open_store(root: Path) -> SnapshotStore:
    """As a server does when it starts."""
    store = SnapshotStore(LocalBlobs(root), lambda image: root / image)
    store.blobs.sweep()
    return store


def freeze(store: SnapshotStore, parent: str | None, seed: int) -> Stored:
    """Store a snapshot of a machine that was `parent` and then did what `seed` says."""
    random = np.random.default_rng(seed)
    before: Manifest | None = None if parent is None else store.load(parent)
    numbers = np.arange(PAGES) if parent is None else np.sort(random.choice(PAGES, 6, False))
    # Pages of few values: snapshots get layers, and now and then whole snapshots, in common.
    values = random.integers(0, 4, len(numbers), np.uint8)
    pages = np.repeat(values[:, None], PAGE, axis=1)
    pages[:, 0] = numbers % 7
    reader = store.reader(before, FrameCache(1 << 20)) if before else None
    changed = {"memory": Changed.at_hand(PAGES * PAGE, numbers, np.ascontiguousarray(pages))}
    with store.draft() as draft:
        return store.put(build(before, reader, changed, hot=NOTHING_HOT, facts={}, out=draft))


def root_of(store: SnapshotStore) -> Path:
    assert isinstance(store.blobs, LocalBlobs)
    return store.blobs.root


def names(store: SnapshotStore) -> set[str]:
    """All files below the store."""
    return {path.name for path in root_of(store).rglob("*") if path.is_file()}


def reach(store: SnapshotStore, manifests: set[str]) -> set[str]:
    """The files that these snapshots need."""
    return manifests | {layer.digest for each in manifests for layer in store.layers(each)}


def age(store: SnapshotStore, seconds: float) -> None:
    """Let time pass for the files that are there."""
    for kind in (LAYERS, MANIFESTS):
        for blob in store.blobs.present(kind):
            then = blob.touched_at - seconds
            _utime(store.blobs.materialize(kind, blob.name), (then, then))


class Crash(BaseException):
    """The process is gone: from here on nothing it does reaches the disk."""


@contextmanager
def breaking(at: int, fail: Callable[[], None], *, for_ever: bool) -> Iterator[list[str]]:
    """Of all system calls in CALLS, the `at`th (and all later ones) does `fail` instead. Gives
    the names of those that were made."""
    made: list[str] = []

    def wrapped(call: str) -> Callable[..., Any]:
        real = getattr(os, call)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if call == "open" and not args[1] & _WRITING:
                return real(*args, **kwargs)
            made.append(call)
            if len(made) == at or (for_ever and len(made) > at):
                fail()
            return real(*args, **kwargs)

        return wrapper

    with pytest.MonkeyPatch.context() as patch:
        for call in CALLS:
            patch.setattr(os, call, wrapped(call))
        yield made
