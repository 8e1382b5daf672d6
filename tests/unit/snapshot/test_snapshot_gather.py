"""Pages that lie scattered are brought together, and stay the pages they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from torpor.blobs.local import LocalBlobs
from torpor.snapshot.build import Changed, build
from torpor.snapshot.gather import (
    LAYERS_LEFT,
    LAYERS_MAX,
    SPARSE_FRAMES_MAX,
    SPARSE_PAGES_MAX,
    to_move,
)
from torpor.snapshot.layer import FRAME_PAGES, PAGE
from torpor.snapshot.manifest import LayerRef, Manifest, Region
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.refs import layer_numbers, make_refs, positions
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
    return SnapshotStore(LocalBlobs(tmp_path), lambda digest: tmp_path / digest)


def test_a_restore_costs_the_same_at_any_depth(store: SnapshotStore) -> None:
    random = np.random.default_rng(1)
    memory = random.integers(0, 256, (PAGES, PAGE), dtype=np.uint8)
    hot = np.arange(200, dtype=np.int64) * 7
    cache = FrameCache(64 << 20)
    everything = Changed.at_hand(LENGTH, np.arange(PAGES, dtype=np.int64), memory)
    digest = store.put(build(None, None, {"memory": everything}, hot=hot, facts={})).manifest_digest
    frames = []
    for _ in range(100):
        # Two of the hot pages and one other change wholly: what is stored of them is plain.
        numbers = np.sort(np.append(random.choice(hot, 2, replace=False), 5))
        memory[numbers] = random.integers(0, 256, (3, PAGE), dtype=np.uint8)
        parent = store.load(digest)
        changed = {"memory": Changed.at_hand(LENGTH, numbers, memory[numbers])}
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
    everything = Changed.at_hand(
        LENGTH, np.arange(PAGES, dtype=np.int64), np.ascontiguousarray(memory)
    )
    built = build(None, None, {"memory": everything}, hot=np.empty(0, np.int64), facts={})
    manifest = store.load(store.put(built).manifest_digest)
    assert not len(to_move(manifest, np.array([1, 100])))
    assert not len(to_move(manifest, np.empty(0, np.int64)))


def mapped(layers: int, refs: list[tuple[int, int]], bases: dict[int, tuple[int, int]]) -> Manifest:
    """A memory of pages at (layer, position), some of them XORs; layer 0 is an image, and each
    other a layer of 1000 pages."""

    def ref(place: tuple[int, int]) -> int:
        return int(make_refs(place[0], np.array([place[1]]))[0])

    column = np.zeros(len(refs), np.uint64)
    for page, place in bases.items():
        column[page] = ref(place)
    return Manifest(
        layers=(
            LayerRef("raw", "0" * 16, 1000),
            *(LayerRef("zstd", f"{number:064x}", 1000) for number in range(layers)),
        ),
        regions={
            "memory": Region(
                "memory", len(refs) * PAGE, np.array([ref(r) for r in refs], np.uint64), column
            )
        },
        hot=np.empty(0, np.uint32),
        facts={},
    )


def moved(manifest: Manifest, hot: list[int]) -> list[tuple[int, int]]:
    refs = to_move(manifest, np.array(hot, np.int64))
    return list(zip((layer_numbers(refs) - 1).tolist(), positions(refs).tolist(), strict=True))


def test_hot_pages_in_sparse_frames_move_with_their_bases() -> None:
    own = [(2, FRAME_PAGES * n) for n in range(SPARSE_FRAMES_MAX + 1)]
    dense = [(3, n) for n in range(SPARSE_PAGES_MAX + 1)]
    first = [(1, FRAME_PAGES * n) for n in range(SPARSE_FRAMES_MAX + 1)]
    image = [(0, FRAME_PAGES * n) for n in range(SPARSE_FRAMES_MAX + 1)]
    manifest = mapped(
        4, [*own, *dense, *first, *image], {0: (4, 7), 1: (1, 500), len(own): (3, 900)}
    )
    everything = list(range(len(manifest.regions["memory"].refs)))
    assert moved(manifest, everything) == sorted([*own, (4, 7), (3, 900)])
    assert moved(manifest, everything[1:-1]) == sorted([*own[1:], (3, 900)])
    assert moved(manifest, everything[2:-1]) == []


def test_the_layers_that_fewest_pages_need_are_left() -> None:
    many = LAYERS_MAX + 1
    needed = [(number, place) for number in range(1, many + 1) for place in range(number)]
    # The first layer is needed for one page, and stays all the same.
    expected = [(n, place) for n, place in needed if 1 < n <= many - LAYERS_LEFT]
    assert moved(mapped(many, needed, {}), []) == expected
    assert moved(mapped(many - 1, [r for r in needed if r[0] < many], {}), []) == []


def test_a_layer_needed_for_much_is_kept() -> None:
    many = LAYERS_MAX + 1
    needed = [(number, place) for number in range(1, many + 1) for place in range(900)]
    assert {layer for layer, _ in moved(mapped(many, needed, {}), [])} == {2, 3}


def test_layers_are_few_at_any_depth_and_pages_move_as_they_are(store: SnapshotStore) -> None:
    random = np.random.default_rng(2)
    memory = random.integers(1, 256, (PAGES, PAGE), dtype=np.uint8)
    cache = FrameCache(64 << 20)
    nothing = np.empty(0, np.int64)
    everything = Changed.at_hand(LENGTH, np.arange(PAGES, dtype=np.int64), memory)
    built = build(None, None, {"memory": everything}, hot=nothing, facts={})
    digest = store.put(built).manifest_digest
    layers, stored = [], []
    for _ in range(3 * LAYERS_MAX):
        numbers = np.sort(random.choice(PAGES, 20, replace=False))
        memory[numbers[:10], :8] += 1  # XORs
        memory[numbers[10:]] = random.integers(1, 256, (10, PAGE), dtype=np.uint8)
        parent = store.load(digest)
        changed = {"memory": Changed.at_hand(LENGTH, numbers, memory[numbers])}
        built = build(parent, store.reader(parent, cache), changed, hot=nothing, facts={})
        digest = store.put(built).manifest_digest
        layers.append(len(built.manifest.layers))
        stored.append(built.stats)
    assert max(layers) == LAYERS_MAX + 1
    assert 0 < sum(s.moved for s in stored) < sum(s.xor + s.plain for s in stored)
    newest = store.load(digest)
    content = store.reader(newest, cache).pages("memory", np.arange(PAGES, dtype=np.int64))
    assert (content == memory).all()
    assert store.verify(digest) == []
