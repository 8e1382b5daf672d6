"""Forgotten files are no longer in the page cache, and unharmed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from torpor.bench.cold import files_below, forget

SIZE = 1 << 20


def _require_disk(directory: Path) -> None:
    said = subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True)
    if said.stdout.strip() not in ("ext2/ext3", "xfs", "btrfs"):
        pytest.skip(f"{directory} is on {said.stdout.strip()}, which may know no page cache")


def _cached(path: Path) -> bool:
    """Whether the first page can be read without waiting for the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return os.preadv(fd, [bytearray(4096)], 0, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def test_forgotten_files_must_be_read_from_the_disk(tmp_path: Path) -> None:
    _require_disk(tmp_path)
    content = os.urandom(SIZE)
    path = tmp_path / "layers" / "aa" / "file"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(content)
        os.fsync(file.fileno())
    assert _cached(path)
    forget([path])
    assert not _cached(path)
    assert path.read_bytes() == content


def test_files_below_are_found_at_any_depth(tmp_path: Path) -> None:
    deep = tmp_path / "blobs" / "layers" / "aa"
    deep.mkdir(parents=True)
    (deep / "one").write_bytes(b"1")
    (tmp_path / "blobs" / "two").write_bytes(b"2")
    (tmp_path / "other").write_bytes(b"3")
    assert sorted(path.name for path in files_below(tmp_path / "blobs")) == ["one", "two"]
