"""Layers: what is written is read, by us and by others; what is damaged is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import pyzstd
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Damaged, InternalError
from torpor.snapshot.layer import (
    FRAME,
    FRAME_PAGES,
    PAGE,
    EncodedLayer,
    LayerReader,
    LayerWriter,
    Pages,
    RawReader,
    write_layer,
)


def some_pages(count: int, seed: int = 0) -> Pages:
    """Compressible pages, all different."""
    pages = np.random.default_rng(seed).integers(0, 4, (count, PAGE)).astype(np.uint8)
    pages[:, PAGE // 2 :] = 7
    return pages


def saved(layer: EncodedLayer, directory: Path) -> Path:
    path = directory / layer.digest
    path.write_bytes(b"".join(layer.chunks))
    return path


@pytest.mark.parametrize("count", [0, 1, FRAME_PAGES, FRAME_PAGES + 1, 5 * FRAME_PAGES, 200])
def test_pages_come_back(tmp_path: Path, count: int) -> None:
    pages = some_pages(count)
    layer = write_layer(pages)
    reader = LayerReader(saved(layer, tmp_path))
    assert (reader.pages, layer.pages) == (count, count)
    assert reader.frames == -(-count // FRAME_PAGES)
    frames = [reader.frame(number) for number in range(reader.frames)]
    assert all(len(frame) == FRAME for frame in frames[:-1])
    assert b"".join(frames) == pages.tobytes()


def test_name_is_blake3_of_the_file_and_size_is_its_size(tmp_path: Path) -> None:
    layer = write_layer(some_pages(40))
    data = saved(layer, tmp_path).read_bytes()
    assert blake3(data).hexdigest() == layer.digest
    assert len(data) == layer.size


@pytest.mark.parametrize("step", [FRAME_PAGES, 5 * FRAME_PAGES, 9 * FRAME_PAGES])
def test_how_many_pages_come_at_a_time_makes_no_difference(tmp_path: Path, step: int) -> None:
    pages = some_pages(20 * FRAME_PAGES + 3)
    whole = write_layer(pages)
    with LocalBlobs(tmp_path / "blobs").draft() as draft:
        writer = LayerWriter(out=draft)
        for start in range(0, len(pages), step):
            writer.add(pages[start : start + step])
        layer = writer.finish()
        assert draft.path.read_bytes() == b"".join(whole.chunks)
        assert (layer.digest, layer.pages, layer.size) == (whole.digest, whole.pages, whole.size)
        assert layer.chunks == ()


def test_what_is_no_page_is_refused() -> None:
    with pytest.raises(InternalError, match="pages of 4096 bytes"):
        write_layer(np.zeros((2, PAGE - 1), np.uint8))
    writer = LayerWriter()
    writer.add(some_pages(FRAME_PAGES + 1))
    with pytest.raises(InternalError, match="not full"):
        writer.add(some_pages(1))


def test_the_zstd_program_reads_it(tmp_path: Path) -> None:
    zstd = shutil.which("zstd")
    if zstd is None:
        pytest.skip("the zstd program is not installed")
    pages = some_pages(100)
    path = saved(write_layer(pages), tmp_path)
    done = subprocess.run([zstd, "-dc", str(path)], capture_output=True, check=True, timeout=30)
    assert done.stdout == pages.tobytes()


def test_another_library_reads_any_place_of_it(tmp_path: Path) -> None:
    pages = some_pages(100)
    path = saved(write_layer(pages), tmp_path)
    with pyzstd.SeekableZstdFile(path) as file:
        for number in (99, 0, 42):
            file.seek(number * PAGE)
            assert file.read(PAGE) == pages[number].tobytes()
        file.seek(0)
        assert file.read() == pages.tobytes()


def test_a_layer_that_another_library_wrote_is_read(tmp_path: Path) -> None:
    pages = some_pages(50)
    path = tmp_path / "theirs"
    with pyzstd.SeekableZstdFile(path, "w", max_frame_content_size=FRAME) as file:
        file.write(pages.tobytes())
    # pyzstd writes no checksums, which we insist on.
    with pytest.raises(Damaged, match="seek table"):
        LayerReader(path)


def read_all(path: Path) -> bytes | None:
    """All pages, None if it is found to be damaged; any other error fails the test."""
    try:
        reader = LayerReader(path)
        return b"".join(reader.frame(number) for number in range(reader.frames))
    except Damaged as error:
        assert path.name in error.message
        assert error.hint
        return None


def test_every_flipped_byte_is_found_or_without_effect(tmp_path: Path) -> None:
    pages = np.zeros((FRAME_PAGES + 2, PAGE), np.uint8)
    pages[:, :40] = np.arange(40)
    pages[:, 100] = np.arange(FRAME_PAGES + 2)
    path = saved(write_layer(pages), tmp_path)
    good = path.read_bytes()
    assert len(good) < 1000
    harmless = 0
    for at in range(len(good)):
        for mask in (0x01, 0x80):
            path.write_bytes(good[:at] + bytes([good[at] ^ mask]) + good[at + 1 :])
            read = read_all(path)
            assert read in (None, pages.tobytes()), f"byte {at} ^ {mask:#x}"
            harmless += read is not None
    assert harmless < len(good) // 10


def test_every_truncation_and_any_added_byte_is_found(tmp_path: Path) -> None:
    path = saved(write_layer(some_pages(2)), tmp_path)
    good = path.read_bytes()
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert read_all(path) is None
    for bad in (good + b"\0", b"\0" + good, good + good):
        path.write_bytes(bad)
        assert read_all(path) is None


@given(st.binary(max_size=200))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("garbage") / "layer"
    path.write_bytes(data)
    assert read_all(path) is None


def test_frames_swapped_within_a_layer_are_found(tmp_path: Path) -> None:
    """Both frames are valid zstd; only the table knows which belongs where."""
    a, b = some_pages(FRAME_PAGES, 1), some_pages(FRAME_PAGES, 1)
    b[:, 0] ^= 1
    layer = write_layer(np.concatenate((a, b)))
    first, second, table = layer.chunks
    path = tmp_path / layer.digest
    path.write_bytes(second + first + table)
    assert read_all(path) is None


def test_a_missing_layer_is_damage_and_named(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="absent"):
        LayerReader(tmp_path / "absent")


def test_a_deleted_layer_is_read_on_by_who_has_it_open(tmp_path: Path) -> None:
    path = saved(write_layer(some_pages(1)), tmp_path)
    reader = LayerReader(path)
    path.unlink()
    assert reader.frame(0) == some_pages(1).tobytes()


def test_a_raw_file_reads_like_a_layer(tmp_path: Path) -> None:
    pages = some_pages(FRAME_PAGES + 3)
    path = tmp_path / "root.erofs"
    path.write_bytes(pages.tobytes())
    reader = RawReader(path)
    assert (reader.pages, reader.frames) == (FRAME_PAGES + 3, 2)
    assert reader.frame(0) + reader.frame(1) == pages.tobytes()


def test_a_raw_file_of_broken_pages_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "root.erofs"
    path.write_bytes(bytes(PAGE + 1))
    with pytest.raises(Damaged, match="whole pages"):
        RawReader(path)


def test_a_raw_file_cut_off_while_open_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "root.erofs"
    path.write_bytes(bytes(2 * FRAME))
    reader = RawReader(path)
    with path.open("r+b") as file:
        file.truncate(FRAME + 1)
    with pytest.raises(Damaged, match="ends before"):
        reader.frame(1)
