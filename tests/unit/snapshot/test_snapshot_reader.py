"""Reading pages through manifests, caches and damaged layers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from torpor.core.errors import Damaged
from torpor.snapshot.layer import FRAME, FRAME_PAGES, PAGE, Pages, write_layer
from torpor.snapshot.manifest import LayerRef, Manifest, Region
from torpor.snapshot.reader import FrameCache, PageReader, Tally
from torpor.snapshot.refs import make_refs

COUNT = 300
LENGTH = COUNT * PAGE - 100


@pytest.fixture
def content() -> Pages:
    """A region's pages: every third is zero; of the others, every fourth is stored as an XOR."""
    pages = np.random.default_rng(1).integers(0, 9, (COUNT, PAGE)).astype(np.uint8)
    pages[::3] = 0
    pages[-1, -100:] = 0
    return pages


@pytest.fixture
def layer(tmp_path: Path) -> Callable[[LayerRef], Path]:
    return lambda ref: tmp_path / ref.digest


@pytest.fixture
def manifest(tmp_path: Path, content: Pages) -> Manifest:
    full = np.flatnonzero(content.any(axis=1))
    stored = content[full].copy()
    based = np.arange(1, len(full), 4)
    stored[based] ^= content[full[0]]
    shuffled = np.random.default_rng(2).permutation(len(full))
    layer = write_layer(np.ascontiguousarray(stored[shuffled]))
    (tmp_path / layer.digest).write_bytes(b"".join(layer.chunks))
    positions = shuffled.argsort()
    refs, bases = np.zeros(COUNT, np.uint64), np.zeros(COUNT, np.uint64)
    refs[full] = make_refs(0, positions)
    bases[full[based]] = refs[full[0]]
    region = Region("memory", LENGTH, refs, bases)
    ref = LayerRef("zstd", layer.digest, layer.pages)
    return Manifest((ref,), {"memory": region}, np.zeros(0, np.uint32), {})


def test_pages_in_any_order_and_repeated(
    manifest: Manifest, layer: Callable[[LayerRef], Path], content: Pages
) -> None:
    reader = PageReader(manifest, layer, cache=FrameCache(1 << 20))
    numbers = np.random.default_rng(3).integers(0, COUNT, 500)
    assert (reader.pages("memory", numbers) == content[numbers]).all()
    assert reader.pages("memory", np.arange(0)).shape == (0, PAGE)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, PAGE), (1, 1), (PAGE - 1, 2), (5000, 70_000), (0, LENGTH), (LENGTH - 5, 50)],
)
def test_bytes(
    manifest: Manifest,
    layer: Callable[[LayerRef], Path],
    content: Pages,
    offset: int,
    length: int,
) -> None:
    reader = PageReader(manifest, layer, cache=FrameCache(1 << 20))
    expected = content.tobytes()[:LENGTH][offset : offset + length]
    assert reader.read("memory", offset, length) == expected


@pytest.mark.parametrize("in_order", [False, True], ids=["scattered", "in order"])
def test_small_reads_are_what_their_pages_are(
    manifest: Manifest,
    layer: Callable[[LayerRef], Path],
    content: Pages,
    in_order: bool,
) -> None:
    """With every kind of neighbour: runs of zeros and of a frame's pages, XORs, ends of frames."""
    if in_order:
        region = manifest.regions["memory"]
        refs, bases = region.refs, region.bases
        refs[10:90] = make_refs(0, np.arange(5, 85))
        refs[100:140] = bases[10:140] = 0
        bases[70:80] = make_refs(0, np.arange(80, 90))
        content = PageReader(manifest, layer, cache=FrameCache(1 << 20)).pages(
            "memory", np.arange(COUNT)
        )
        assert content[10:70].any(axis=1).all() and not content[100:140].any()
    random = np.random.default_rng(4)
    expected = content.tobytes()[:LENGTH]
    reader = PageReader(manifest, layer, cache=FrameCache(1 << 20))
    for pages in range(1, 70):
        for offset in (*random.integers(0, LENGTH, 8).tolist(), 0, LENGTH - pages * PAGE):
            length = pages * PAGE - int(random.choice((0, 0, 1, 3000)))
            assert reader.read("memory", offset, length) == expected[offset : offset + length]


def test_the_frames_of_a_read_are_those_that_it_looks_up(
    manifest: Manifest, layer: Callable[[LayerRef], Path]
) -> None:
    for first in range(0, COUNT, 16):
        cache = FrameCache(64 << 20)
        reader = PageReader(manifest, layer, cache=cache)
        needed = reader.frames("memory", first * PAGE, 16 * PAGE)
        reader.read("memory", first * PAGE, 16 * PAGE)
        assert cache.misses == len(needed) == len(set(needed))
        assert all(cache.get(*frame, reader.tally) for frame in needed)
    assert reader.frames("memory", 0, PAGE) == []


@pytest.mark.parametrize(("offset", "length"), [(LENGTH, 1), (LENGTH + PAGE, 9), (5, 0)])
def test_nothing_is_beyond_the_end(
    manifest: Manifest, layer: Callable[[LayerRef], Path], offset: int, length: int
) -> None:
    reader = PageReader(manifest, layer, cache=FrameCache(1 << 20))
    assert reader.read("memory", offset, length) == b""


def test_zero_pages_need_no_layer(manifest: Manifest, tmp_path: Path) -> None:
    reader = PageReader(manifest, lambda _: tmp_path / "absent", cache=FrameCache(1 << 20))
    assert not reader.pages("memory", np.arange(0, COUNT, 3)).any()
    with pytest.raises(Damaged, match="absent"):
        reader.pages("memory", np.array([1]))


def test_a_frame_is_decompressed_once_for_all_readers(
    manifest: Manifest, layer: Callable[[LayerRef], Path]
) -> None:
    cache = FrameCache(64 << 20)
    readers = [PageReader(manifest, layer, cache=cache) for _ in range(3)]
    frames = -(-manifest.layers[0].pages // FRAME_PAGES)
    for reader in readers:
        reader.pages("memory", np.arange(COUNT))
    assert cache.misses == frames
    assert cache.hits > 2 * frames


def test_a_small_cache_changes_nothing_but_the_work(
    manifest: Manifest, layer: Callable[[LayerRef], Path], content: Pages
) -> None:
    for size in (0, FRAME, 3 * FRAME):
        reader = PageReader(manifest, layer, cache=FrameCache(size))
        assert (reader.pages("memory", np.arange(COUNT)) == content).all()


def test_many_threads(
    manifest: Manifest, layer: Callable[[LayerRef], Path], content: Pages
) -> None:
    reader = PageReader(manifest, layer, cache=FrameCache(4 * FRAME))

    def check(seed: int) -> bool:
        numbers = np.random.default_rng(seed).integers(0, COUNT, 50)
        return bool((reader.pages("memory", numbers) == content[numbers]).all())

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(check, range(40)))


def test_a_damaged_frame_spoils_only_its_pages(
    manifest: Manifest, layer: Callable[[LayerRef], Path], content: Pages
) -> None:
    path = layer(manifest.layers[0])
    data = bytearray(path.read_bytes())
    data[100] ^= 0x55  # within frame 0
    path.write_bytes(data)
    reader = PageReader(manifest, layer, cache=FrameCache(1 << 20))
    good = bad = 0
    for number in range(COUNT):
        try:
            assert (reader.pages("memory", np.array([number]))[0] == content[number]).all()
            good += 1
        except Damaged as error:
            assert manifest.layers[0].digest in error.message
            bad += 1
    assert good > COUNT // 2
    assert bad >= FRAME_PAGES


def test_a_layer_of_another_length_is_damaged(
    manifest: Manifest, layer: Callable[[LayerRef], Path]
) -> None:
    other = write_layer(np.ones((5, PAGE), np.uint8))
    layer(manifest.layers[0]).write_bytes(b"".join(other.chunks))
    with pytest.raises(Damaged, match="it has 5 pages"):
        PageReader(manifest, layer, cache=FrameCache(1 << 20)).pages("memory", np.array([1]))


def test_the_cache_keeps_what_was_used_last() -> None:
    cache, tally = FrameCache(3 * FRAME), Tally()
    frames = {number: bytes([number]) * FRAME for number in range(4)}
    for number in (0, 1, 2):
        cache.put("layer", number, frames[number])
    assert cache.get("layer", 0, tally) == frames[0]
    cache.put("layer", 3, frames[3])
    assert cache.get("layer", 1, tally) is None
    assert cache.get("layer", 0, tally) == frames[0]
    assert cache.get("other", 0, tally) is None
    assert (cache.hits, cache.misses) == (tally.hits, tally.misses) == (2, 2)
    cache.clear()
    assert cache.get("layer", 3, tally) is None


def test_a_frame_put_twice_counts_once() -> None:
    cache = FrameCache(2 * FRAME)
    cache.put("layer", 0, bytes(FRAME))
    for _ in range(5):
        cache.put("layer", 1, bytes(FRAME))
    assert cache.get("layer", 0, Tally()) is not None
