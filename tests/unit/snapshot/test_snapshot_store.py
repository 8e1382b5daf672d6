"""The store: what it holds verifies, and what went wrong is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Damaged, NotFound
from torpor.snapshot.baselines import ImageIndex, build_index
from torpor.snapshot.build import Built, Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.pages import InMemory
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.store import SnapshotStore, Stored


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(
        LocalBlobs(tmp_path / "blobs"), lambda digest: tmp_path / f"{digest}.erofs"
    )


@pytest.fixture
def built(tmp_path: Path) -> Built:
    pages = np.random.default_rng(4).integers(0, 9, (60, PAGE)).astype(np.uint8)
    image = tmp_path / f"{'ee' * 16}.erofs"
    image.write_bytes(pages[:20].tobytes())
    index = ImageIndex("ee" * 16, InMemory(pages[:20]), build_index(image))
    changed = {"memory": Changed.at_hand(60 * PAGE, np.arange(60), pages)}
    hot = np.array([1, 50], np.uint32)
    return build(None, None, changed, hot=hot, facts={"engine": "qemu"}, dedup=index)


def files(store: SnapshotStore) -> dict[str, int]:
    assert isinstance(store.blobs, LocalBlobs)
    paths = [path for path in store.blobs.root.rglob("*") if path.is_file()]
    return {path.name: path.stat().st_size for path in paths}


def test_what_is_put_is_loaded(store: SnapshotStore, built: Built) -> None:
    stored = store.put(built)
    manifest = store.load(stored.manifest_digest)
    assert manifest.digest == stored.manifest_digest
    assert manifest.facts == {"engine": "qemu"}
    assert manifest.encode() == built.manifest.encode()
    assert store.verify(stored.manifest_digest) == []
    found = files(store)
    assert set(found) == {stored.manifest_digest, stored.layer_digest}
    assert stored.bytes == sum(found.values()) == store.size(stored.manifest_digest)


def test_putting_again_changes_nothing(store: SnapshotStore, built: Built) -> None:
    first = store.put(built)
    before = files(store)
    assert store.put(built) == first
    assert files(store) == before


def test_another_list_of_hot_pages_needs_no_layer(store: SnapshotStore, built: Built) -> None:
    """How a template gets its working set once it is known."""
    store.put(built)
    manifest = dataclasses.replace(built.manifest, hot=np.array([3], np.uint32))
    stored = store.put(Built(manifest))
    assert stored.layer_digest is None
    assert store.load(stored.manifest_digest).hot.tolist() == [3]
    assert store.verify(stored.manifest_digest) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x20
    path.write_bytes(data)


def layer_path(store: SnapshotStore, stored: Stored) -> Path:
    assert stored.layer_digest is not None
    return store.blobs.materialize("layers", stored.layer_digest)


def test_a_damaged_manifest_is_refused_and_reported(store: SnapshotStore, built: Built) -> None:
    stored = store.put(built)
    flip(store.blobs.materialize("manifests", stored.manifest_digest), 30)
    with pytest.raises(Damaged):
        store.load(stored.manifest_digest)
    (problem,) = store.verify(stored.manifest_digest)
    assert "damaged" in problem


def test_a_manifest_under_the_name_of_another_is_damaged(
    store: SnapshotStore, built: Built
) -> None:
    stored = store.put(built)
    other = store.put(Built(dataclasses.replace(built.manifest, facts={})))
    path = store.blobs.materialize("manifests", stored.manifest_digest)
    path.write_bytes(store.blobs.get("manifests", other.manifest_digest))
    with pytest.raises(Damaged, match=stored.manifest_digest):
        store.load(stored.manifest_digest)


def test_every_byte_of_a_layer_is_verified(store: SnapshotStore, built: Built) -> None:
    stored = store.put(built)
    path = layer_path(store, stored)
    good = path.read_bytes()
    for at in (0, 4, len(good) // 2, len(good) - 1):
        flip(path, at)
        (problem,) = store.verify(stored.manifest_digest)
        assert str(stored.layer_digest) in problem
        path.write_bytes(good)
    assert store.verify(stored.manifest_digest) == []


def test_what_is_missing_is_reported(store: SnapshotStore, built: Built, tmp_path: Path) -> None:
    stored = store.put(built)
    store.delete_layer(str(stored.layer_digest))
    (tmp_path / f"{'ee' * 16}.erofs").unlink()
    problems = store.verify(stored.manifest_digest)
    assert len(problems) == 2
    reader = store.reader(store.load(stored.manifest_digest), FrameCache(1 << 20))
    with pytest.raises(Damaged, match="cannot be opened"):
        reader.pages("memory", np.arange(60))
    store.delete_manifest(stored.manifest_digest)
    with pytest.raises(NotFound):
        store.load(stored.manifest_digest)
    assert len(store.verify(stored.manifest_digest)) == 1
    assert files(store) == {}


def test_an_image_of_another_size_is_reported(
    store: SnapshotStore, built: Built, tmp_path: Path
) -> None:
    stored = store.put(built)
    (tmp_path / f"{'ee' * 16}.erofs").write_bytes(bytes(PAGE))
    (problem,) = store.verify(stored.manifest_digest)
    assert "1 pages, not 20" in problem


def test_a_damaged_layer_is_healed_by_putting_it_again(store: SnapshotStore, built: Built) -> None:
    stored = store.put(built)
    path = layer_path(store, stored)
    path.write_bytes(path.read_bytes()[:-1])
    store.put(built)
    assert store.verify(stored.manifest_digest) == []
