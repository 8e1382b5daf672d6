"""Sealed snapshots: they come back with their key, and with nothing else; nothing repeats."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from hypothesis import given
from hypothesis import strategies as st

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Damaged, InternalError
from torpor.snapshot import seal
from torpor.snapshot.build import Built, Changed, build
from torpor.snapshot.gc import collect
from torpor.snapshot.layer import (
    FRAME_PAGES,
    PAGE,
    EncodedLayer,
    Pages,
    SealedReader,
    write_layer,
)
from torpor.snapshot.manifest import Manifest, is_sealed, read_layers
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.seal import Key, Sealer
from torpor.snapshot.store import SnapshotStore, Stored

KEY, OTHER = Key(b"k" * 32), Key(b"o" * 32)


def some_pages(count: int, seed: int = 0) -> Pages:
    """Compressible pages, all different."""
    pages = np.random.default_rng(seed).integers(0, 4, (count, PAGE)).astype(np.uint8)
    pages[:, PAGE // 2 :] = 7
    return pages


def saved(layer: EncodedLayer, directory: Path) -> Path:
    path = directory / layer.digest
    path.write_bytes(b"".join(layer.chunks))
    return path


def read_all(path: Path, key: Key | None) -> bytes:
    reader = SealedReader(path, key)
    return b"".join(reader.frame(number) for number in range(reader.frames))


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(LocalBlobs(tmp_path / "blobs"), lambda digest: tmp_path / digest)


def memory(pages: Pages) -> dict[str, Changed]:
    return {"memory": Changed.at_hand(len(pages) * PAGE, np.arange(len(pages)), pages)}


def template(store: SnapshotStore) -> Stored:
    built = build(None, None, memory(some_pages(40)), hot=np.array([1]), facts={})
    return store.put(built)


def child(store: SnapshotStore, parent: str, key: Key | None, seed: int = 9) -> Built:
    """Every other page of the parent's is another."""
    manifest = store.load(parent, key)
    numbers = np.arange(0, 40, 2)
    changed = {"memory": Changed.at_hand(40 * PAGE, numbers, some_pages(20, seed))}
    reader = store.reader(manifest, FrameCache(1 << 20), key)
    return build(manifest, reader, changed, hot=np.array([2]), facts={"a": 1}, key=key)


# -- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, FRAME_PAGES, FRAME_PAGES + 1, 5 * FRAME_PAGES, 200])
def test_pages_come_back(tmp_path: Path, count: int) -> None:
    pages = some_pages(count)
    layer = write_layer(pages, key=KEY)
    path = saved(layer, tmp_path)
    assert blake3(path.read_bytes()).hexdigest() == layer.digest
    assert path.stat().st_size == layer.size
    assert SealedReader(path, None).pages == layer.pages == count
    assert read_all(path, KEY) == pages.tobytes()


@pytest.mark.parametrize("key", [OTHER, None])
def test_another_key_or_none_opens_no_frame(tmp_path: Path, key: Key | None) -> None:
    path = saved(write_layer(some_pages(3), key=KEY), tmp_path)
    with pytest.raises(Damaged, match=path.name):
        read_all(path, key)


def test_every_flipped_bit_of_the_ends_is_refused(tmp_path: Path) -> None:
    """All of the header and of the seek table, and the first and last of each frame's bytes."""
    path = saved(write_layer(some_pages(20), key=KEY), tmp_path)
    good = path.read_bytes()
    for at in itertools.chain(range(60), range(len(good) - 60, len(good))):
        for bit in range(8):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(Damaged, match=path.name):
                read_all(path, KEY)


@given(st.data())
def test_any_other_bytes_are_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = saved(GOOD, tmp_path_factory.getbasetemp())
    bytes_ = bytearray(path.read_bytes())
    match data.draw(st.sampled_from(["flip", "cut", "swap", "grow"])):
        case "flip":
            at = data.draw(st.integers(0, len(bytes_) - 1))
            bytes_[at] ^= data.draw(st.integers(1, 255))
        case "cut":
            del bytes_[data.draw(st.integers(0, len(bytes_) - 1)) :]
        case "swap":  # two frames in each other's place, and the table fits
            (first, second), head = frame_sizes(GOOD)[:2], 40
            one, two = bytes_[head : head + first], bytes_[head + first : head + first + second]
            bytes_[head : head + first + second] = two + one
            table = len(bytes_) - 17 - 8 * 3 + 8
            entries = bytes_[table : table + 16]
            bytes_[table : table + 16] = entries[8:] + entries[:8]
        case "grow":
            bytes_ += data.draw(st.binary(min_size=1, max_size=40))
    path.write_bytes(bytes_)
    with pytest.raises(Damaged, match=path.name):
        read_all(path, KEY)


GOOD = write_layer(some_pages(2 * FRAME_PAGES + 3), key=KEY)


def frame_sizes(layer: EncodedLayer) -> list[int]:
    return [len(chunk) for chunk in layer.chunks[1:-1]]


def test_frames_of_another_layer_of_the_same_run_do_not_pass(tmp_path: Path) -> None:
    """Its salt is not this one's: a frame cannot be put back from an older snapshot."""
    pages = some_pages(FRAME_PAGES)
    one, two = write_layer(pages, key=KEY), write_layer(pages, key=KEY)
    mixed = EncodedLayer((one.chunks[0], *two.chunks[1:]), one.digest, one.pages)
    with pytest.raises(Damaged, match="does not open"):
        read_all(saved(mixed, tmp_path), KEY)


def test_nothing_of_the_content_is_in_the_clear(tmp_path: Path) -> None:
    pages = some_pages(20)
    secret = pages[:, : PAGE // 2] = np.frombuffer(b"a secret of 32 bytes, 128 a page" * 64, "u1")
    path = saved(write_layer(pages, key=KEY), tmp_path)
    assert b"a secret of 32 bytes" not in path.read_bytes()
    assert write_layer(pages, key=KEY).digest != path.name  # nor that two layers are equal
    assert secret.tobytes()[:8] in read_all(path, KEY)


def test_no_nonce_repeats_under_a_key(
    monkeypatch: pytest.MonkeyPatch, store: SnapshotStore
) -> None:
    """Over layers and manifests of a run, also when equal pages are stored again."""
    used: list[tuple[bytes, int]] = []

    class Watched(Sealer):
        def __init__(self, key: bytes) -> None:
            super().__init__(key)
            self.key = key

        def seal(self, part: int, data: bytes, clear: bytes | None = None) -> bytes:
            used.append((self.key, part))
            return super().seal(part, data, clear)

    monkeypatch.setattr(seal, "Sealer", Watched)
    root = template(store).manifest_digest
    assert not used
    for _ in range(20):
        store.put(child(store, root, KEY), KEY)
    assert len(used) == len(set(used)) == 20 * (2 + 1)
    assert len({key for key, _ in used}) == 40
    assert KEY.secret not in {key for key, _ in used}


# -- snapshots -----------------------------------------------------------------------------------


@pytest.fixture
def mixed(store: SnapshotStore) -> Iterator[tuple[str, Pages]]:
    """A run's snapshot on its template: clear layers and sealed ones, and its memory."""
    root = template(store).manifest_digest
    stored = store.put(child(store, root, KEY), KEY)
    pages = some_pages(40)
    pages[::2] = some_pages(20, 9)
    yield stored.manifest_digest, pages


def test_a_snapshot_mixes_clear_layers_and_its_own(
    store: SnapshotStore, mixed: tuple[str, Pages]
) -> None:
    digest, pages = mixed
    manifest = store.load(digest, KEY)
    assert [layer.kind for layer in manifest.layers] == ["zstd", "sealed"]
    assert manifest.digest == digest
    assert store.layers(digest) == manifest.layers  # without the key
    reader = store.reader(manifest, FrameCache(1 << 20), KEY)
    assert reader.read("memory", 0, pages.nbytes) == pages.tobytes()
    again = store.put(child(store, digest, KEY, seed=5), KEY)
    kinds = [layer.kind for layer in store.load(again.manifest_digest, KEY).layers]
    assert kinds == ["zstd", "sealed"]  # of the first no page is left
    assert store.verify(digest) == store.verify(digest, KEY) == []
    assert store.size(digest) > again.bytes > store.layer_path(manifest.layers[1]).stat().st_size


def test_without_the_key_nothing_is_read(store: SnapshotStore, mixed: tuple[str, Pages]) -> None:
    digest, _ = mixed
    with pytest.raises(Damaged, match="there is no key"):
        store.load(digest)
    with pytest.raises(Damaged, match=digest):
        store.load(digest, OTHER)
    assert digest in store.verify(digest, OTHER)[0]
    assert store.verify(digest) == []


def test_a_cache_shows_no_frame_to_who_lacks_the_key(
    store: SnapshotStore, mixed: tuple[str, Pages]
) -> None:
    """Even to one who has got hold of the manifest."""
    digest, pages = mixed
    manifest, cache = store.load(digest, KEY), FrameCache(1 << 24)
    store.reader(manifest, cache, KEY).pages("memory", np.arange(40))
    for key in (None, OTHER):
        thief = store.reader(manifest, cache, key)
        assert (thief.pages("memory", np.arange(1, 40, 2)) == pages[1::2]).all()  # the template's
        hits = cache.hits
        with pytest.raises(Damaged):
            thief.pages("memory", np.array([0]))
        assert cache.hits == hits
    again = store.reader(manifest, cache, KEY)
    misses = cache.misses
    assert (again.pages("memory", np.arange(40)) == pages).all()
    assert cache.misses == misses


def test_any_flipped_byte_of_a_sealed_manifest_is_refused(
    store: SnapshotStore, mixed: tuple[str, Pages]
) -> None:
    good = store.manifest_bytes(mixed[0])
    for at in range(len(good)):
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        with pytest.raises(Damaged):
            Manifest.decode(bad, KEY)
        # The list of layers alone is not vouched for without the key: names are, by the store.
        if is_sealed(bad):
            with contextlib.suppress(Damaged):
                read_layers(bad)
    for length in range(len(good)):
        with pytest.raises(Damaged):
            Manifest.decode(good[:length], KEY)


def test_a_damaged_sealed_layer_is_told_with_its_frames_or_without_a_key_told(
    store: SnapshotStore, mixed: tuple[str, Pages]
) -> None:
    digest, _ = mixed
    layer = store.layers(digest)[1]
    path = store.layer_path(layer)
    data = bytearray(path.read_bytes())
    data[45] ^= 1
    path.write_bytes(data)
    assert "1 of its 2 frames cannot be read (0)" in store.verify(digest, KEY)[0]
    assert layer.digest in store.verify(digest)[0]


def test_garbage_is_collected_without_keys(store: SnapshotStore, mixed: tuple[str, Pages]) -> None:
    digest, _ = mixed
    lost = store.put(child(store, digest, KEY, seed=6), KEY)
    swept = collect(store, [digest], before=float("inf"))
    assert set(swept.manifests) >= {lost.manifest_digest}
    assert swept.layers == (lost.layer_digest,)
    assert store.verify(digest, KEY) == []
    assert not swept.problems


# -- keys ----------------------------------------------------------------------------------------


def test_a_key_does_not_show_itself() -> None:
    key = Key.new()
    for text in (repr(key), str(key), f"{key}", repr([key]), repr({"key": key})):
        assert key.secret.hex() not in text and repr(key.secret) not in text
    assert key != Key.new()
    with pytest.raises(InternalError) as refused:
        Key(b"short and secret")
    assert "secret" not in str(refused.value)


@given(st.binary(max_size=300), st.integers(0, (1 << 32) - 1), st.binary(max_size=40))
def test_only_what_was_sealed_opens(data: bytes, part: int, clear: bytes) -> None:
    sealer = KEY.sealer(b"purpose", b"s" * 32)
    sealed = sealer.seal(part, data, clear)
    assert len(sealed) == len(data) + seal.TAG_BYTES
    assert sealer.open(part, sealed, clear) == data
    wrong_ones: tuple[Callable[[], bytes], ...] = (
        lambda: sealer.open(part + 1, sealed, clear),
        lambda: sealer.open(part, sealed, clear + b"x"),
        lambda: sealer.open(part, sealed[:-1], clear),
        lambda: KEY.sealer(b"other", b"s" * 32).open(part, sealed, clear),
        lambda: KEY.sealer(b"purpose", b"t" * 32).open(part, sealed, clear),
        lambda: OTHER.sealer(b"purpose", b"s" * 32).open(part, sealed, clear),
    )
    for wrong in wrong_ones:
        with pytest.raises(InvalidTag):
            wrong()


def test_page_readers_name_only_sealed_layers_by_key(
    store: SnapshotStore, mixed: tuple[str, Pages]
) -> None:
    manifest = store.load(mixed[0], KEY)
    reader = PageReader(manifest, store.layer_path, cache=FrameCache(1), key=KEY)
    clear, sealed = manifest.layers
    assert reader.names[0] == clear.digest
    assert reader.names[1] != sealed.digest
