"""Hot pages that lie scattered are brought together, and stay the pages they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from torpor.snapshot.build import Changed, build
from torpor.snapshot.gather import SPARSE_FRAMES_MAX, SPARSE_PAGES_MAX, scattered
from torpor.snapshot.layer import FRAME_PAGES, PAGE
from torpor.snapshot.manifest import Manifest, layer_numbers, positions
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import SnapshotStore

PAGES = 4096
LENGTH = PAGES * PAGE


def frames_of(manifest: Manifest, pages: np.ndarray) -> int:
    """How many frames a restore that wants these pages decompresses."""
    memory = manifest.regions["memory"]
    refs = np.concatenate((memory.refs[pages], memory.bases[pages]))
    refs = refs[refs != 0]
    return len(np.unique(layer_numbers(refs) << 32 | positions(refs) // FRAME_PAGES))


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path, lambda digest: tmp_path / digest)


def test_a_restore_costs_the_same_at_any_depth(store: SnapshotStore) -> None:
    random = np.random.default_rng(1)
    memory = random.integers(0, 256, (PAGES, PAGE), dtype=np.uint8)
    hot = np.arange(200, dtype=np.int64) * 7
    cache = FrameCache(64 << 20)
    everything = Changed(LENGTH, np.arange(PAGES, dtype=np.int64), memory)
    digest = store.put(build(None, None, {"memory": everything}, hot=hot, facts={})).manifest_digest
    frames = []
    for _ in range(100):
        # Two of the hot pages and one other change wholly: what is stored of them is plain.
        numbers = np.sort(np.append(random.choice(hot, 2, replace=False), 5))
        memory[numbers] = random.integers(0, 256, (3, PAGE), dtype=np.uint8)
        parent = store.load(digest)
        changed = {"memory": Changed(LENGTH, numbers, memory[numbers])}
        built = build(parent, store.reader(parent, cache), changed, hot=hot, facts={})
        digest = store.put(built).manifest_digest
        frames.append(frames_of(store.load(digest), hot))
    dense = -(-len(hot) // FRAME_PAGES)
    # Every snapshot may add a sparse frame until they are gathered; dense ones thin out below
    # the limit first.
    assert max(frames) <= dense + SPARSE_FRAMES_MAX + len(hot) // (SPARSE_PAGES_MAX + 1)
    assert max(frames[50:]) <= max(frames[:50]) + SPARSE_FRAMES_MAX
    newest = store.load(digest)
    content = store.reader(newest, cache).pages("memory", np.arange(PAGES, dtype=np.int64))
    assert (content == memory).all()


def test_few_scattered_pages_are_left_where_they_are(store: SnapshotStore) -> None:
    memory = np.full((PAGES, PAGE), 7, np.uint8) * np.arange(PAGES, dtype=np.uint8)[:, None]
    everything = Changed(LENGTH, np.arange(PAGES, dtype=np.int64), np.ascontiguousarray(memory))
    built = build(None, None, {"memory": everything}, hot=np.empty(0, np.int64), facts={})
    manifest = store.load(store.put(built).manifest_digest)
    assert not len(scattered(manifest, np.array([1, 100])))
    assert not len(scattered(manifest, np.empty(0, np.int64)))
