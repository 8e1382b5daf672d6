"""The store and its collector, broken at every system call they make.

A crash: that call and all after it do not happen. A full disk: that one call fails.
After each, what was recorded verifies, and collection leaves just that.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.snapshot.gc_world import (
    CALLS,
    Crash,
    age,
    breaking,
    freeze,
    names,
    open_store,
    reach,
)

from torpor.blobs import local
from torpor.core.errors import Exhausted
from torpor.snapshot import gc
from torpor.snapshot.store import SnapshotStore


@dataclass
class Story:
    """Snapshots come and go: what is live must verify whenever the story breaks off."""

    store: SnapshotStore
    live: set[str] = field(default_factory=set)

    def tell(self) -> None:
        template = self._record(None, 1)
        first = self._record(template, 2)
        other = self._record(None, 3)
        self.live -= {template, other}
        age(self.store, 3600.0)
        self._record(first, 4)
        gc.collect(self.store, self.live, before=time.time() - 600.0)
        self._record(None, 3)  # again

    def _record(self, parent: str | None, seed: int) -> str:
        manifest = freeze(self.store, parent, seed).manifest_digest
        self.live.add(manifest)
        return manifest


@pytest.fixture(autouse=True)
def _layers_are_sent_to_the_disk_as_they_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_SYNC_BYTES", 1)


def points(directory: Path) -> list[str]:
    """The system calls of the whole story, in order."""
    with breaking(0, lambda: None, for_ever=False) as made:
        Story(open_store(directory)).tell()
    return made


def check(root: Path, live: set[str], where: str) -> None:
    """Start again on what is left."""
    store = open_store(root)
    for manifest in live:
        assert store.verify(manifest) == [], where
    age(store, 3600.0)
    gc.collect(store, live, before=time.time() - 600.0)
    assert names(store) == reach(store, live), where
    assert all(store.verify(manifest) == [] for manifest in live), where


def test_a_crash_at_every_point(tmp_path: Path) -> None:
    made = points(tmp_path / "whole")
    assert set(made) == set(CALLS)

    def crash() -> None:
        raise Crash

    for at in range(1, len(made) + 1):
        root, live = tmp_path / str(at), set[str]()
        with breaking(at, crash, for_ever=True), pytest.raises(Crash):
            Story(open_store(root), live).tell()
        check(root, live, f"crashed at call {at} of {len(made)}, {made[at - 1]}")


def test_a_full_disk_at_every_point(tmp_path: Path) -> None:
    made = points(tmp_path / "whole")

    def fail() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for at in range(1, len(made) + 1):
        root, live = tmp_path / str(at), set[str]()
        with breaking(at, fail, for_ever=False), contextlib.suppress(Exhausted):
            Story(open_store(root), live).tell()
        if made[at - 1] != "unlink":
            assert not list(root.glob("tmp/*")), "nothing half written is left"
        check(root, live, f"full at call {at} of {len(made)}, {made[at - 1]}")


@pytest.mark.parametrize("most", [1, 4096])
def test_short_writes_at_every_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    real: Callable[[int, list[memoryview]], int] = os.writev

    def short(fd: int, buffers: list[memoryview]) -> int:
        return real(fd, [buffers[0][:most]])

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", short)
        story = Story(open_store(tmp_path))
        story.tell()
    check(tmp_path, story.live, f"{most} bytes a write")
