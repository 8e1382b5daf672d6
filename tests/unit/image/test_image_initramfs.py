"""The archive is one that cpio reads, and init one that a shell accepts."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from torpor.image.initramfs import INIT, Entry, cpio, guest_sources, initramfs

_FILE = stat.S_IFREG | 0o640


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_what_we_pack(tmp_path: Path) -> None:
    entries = [
        Entry("a/b/deep", _FILE, b"x" * 4097),
        Entry("empty", _FILE),
        Entry("program", stat.S_IFREG | 0o755, b"#!/bin/sh\n"),
        Entry("ümläut", _FILE, b"odd"),
    ]
    subprocess.run(
        ["cpio", "-i", "--quiet", "--no-preserve-owner"],
        input=cpio(entries), cwd=tmp_path, check=True,
    )  # fmt: skip
    for entry in entries:
        assert (tmp_path / entry.path).read_bytes() == entry.data
        assert (tmp_path / entry.path).stat().st_mode == entry.mode
    assert (tmp_path / "a" / "b").stat().st_mode == stat.S_IFDIR | 0o755


_PATHS = st.text("ab/", min_size=1).filter(lambda p: all(p.split("/")) and p[0] != "/")


@given(st.dictionaries(_PATHS, st.binary(max_size=20), max_size=5), st.randoms())
def test_bytes_depend_on_the_entries_alone(files: dict[str, bytes], random: object) -> None:
    entries = [Entry(path, _FILE, body) for path, body in files.items()]
    shuffled = list(entries)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    archive = cpio(entries)
    assert cpio(shuffled) == archive
    assert len(archive) % 4 == 0


def test_directories_come_before_what_is_in_them() -> None:
    archive = cpio([Entry("a/b/c", _FILE), Entry("a-b", _FILE)])
    positions = [archive.index(name) for name in (b"a\0", b"a/b\0", b"a/b/c\0", b"TRAILER!!!")]
    assert positions == sorted(positions)


def test_the_archive_holds_init_modules_in_order_and_guest() -> None:
    packed = initramfs(b"busybox", [b"module0", b"module1"], {"torpor/__init__.py": b"code"})
    archive = zstandard.ZstdDecompressor().decompress(packed)
    for name in (b"init", b"modules/00.ko", b"modules/01.ko", b"torpor/torpor/__init__.py"):
        assert name + b"\0" in archive
    assert archive.index(b"module0") < archive.index(b"module1")


def test_init_is_a_valid_script() -> None:
    subprocess.run(["sh", "-n"], input=INIT.encode(), check=True)


def test_only_the_guests_part_of_the_package_travels(tmp_path: Path) -> None:
    for path in ("__init__.py", "guest/__main__.py", "guest/data.txt", "log/store.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(path)
    assert guest_sources(tmp_path) == {
        "__init__.py": b"__init__.py",
        "guest/__main__.py": b"guest/__main__.py",
    }
