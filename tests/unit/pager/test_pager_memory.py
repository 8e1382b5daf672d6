"""The memory file: late content, exact bytes, pushed pages, recorded faults, damage."""

from __future__ import annotations

import errno
import mmap
import os
import random
from typing import Any

import pytest

from torpor.core.errors import Damaged
from torpor.snapshot.layer import PAGE


def content(pages: int, seed: int = 1) -> bytes:
    """Pages that differ, a third of them zero."""
    noise = random.Random(seed)
    return b"".join(
        bytes(PAGE) if n % 3 == 0 else noise.randbytes(64) * (PAGE // 64) for n in range(pages)
    )


def test_memory_is_the_snapshots_bytes_at_every_offset(pager: Any) -> None:
    memory = content(100)
    pager.slot("exact", memory)
    assert pager.path("exact").stat().st_size == len(memory)
    with pager.path("exact").open("rb", buffering=0) as file:
        for offset, length in ((0, 1), (4095, 2), (65535, 3), (0, 1 << 20), (len(memory) - 1, 10)):
            file.seek(offset)
            assert file.read(length) == memory[offset : offset + length]
        file.seek(len(memory))
        assert file.read(1) == b""


def test_a_read_before_the_bind_waits_for_its_content(pager: Any) -> None:
    memory = content(40)
    pager.ask("create", "late", len(memory), 0)
    reading = pager.reading("late")
    pager.ask("bind", "late", pager.snapshot(memory), hot=False)
    assert reading.result() == memory


def test_a_reader_that_waits_for_pages_does_not_hold_up_their_push(pager: Any) -> None:
    """It has them locked in the kernel's cache until it is answered."""
    memory = content(64)
    pager.ask("create", "both", len(memory), 0)
    readings = [pager.reading("both"), pager.reading("both")]
    pager.ask("bind", "both", pager.snapshot(memory, hot=tuple(range(64))), hot=True)
    assert [reading.result() for reading in readings] == [memory, memory]


def test_hot_pages_are_read_without_a_fault_and_others_are_recorded(pager: Any) -> None:
    memory = content(400)
    hot = (10, 11, 14, 300)
    pager.ask("readahead", 0)
    try:
        # Mapped before the bind, as an engine does.
        pager.ask("create", "hot", len(memory), 0)
        with pager.path("hot").open("r+b") as file:
            mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
            mapped.madvise(mmap.MADV_RANDOM)
            answer = pager.ask("bind", "hot", pager.snapshot(memory, hot=hot))
            assert answer["pushed"] == 6  # with the gap of 12 and 13
            for page in hot:
                assert mapped[page * PAGE : page * PAGE + PAGE] == memory[page * PAGE :][:PAGE]
            assert pager.ask("stats", "hot")["reads"] == 0
            for page in (40, 42, 41, 399, 300):
                assert mapped[page * PAGE + 7] == memory[page * PAGE + 7]
            stats = pager.ask("stats", "hot")
            assert stats["faults"] == [[40, 3], [399, 1]]
            assert (stats["reads"], stats["bytes"]) == (4, 4 * PAGE)
            mapped.close()
    finally:
        pager.ask("readahead", 64)


def test_each_slot_has_its_own_figures_and_the_sums_outlive_it(pager: Any) -> None:
    memory = content(64, seed=70)
    digest = pager.snapshot(memory)
    before = pager.ask("stats")
    pager.ask("drop_caches")
    for name in ("first", "second"):  # of one snapshot, whose content is opened once
        pager.ask("create", name, len(memory), 0)
        pager.ask("bind", name, digest, hot=False)
        assert pager.path(name).read_bytes() == memory
    first, second = pager.ask("stats", "first"), pager.ask("stats", "second")
    assert first["frames"] == first["misses"] > 0
    assert (second["misses"], second["frames"]) == (0, 0) and second["hits"] > 0
    for name in ("first", "second"):
        pager.ask("drop", name)
    after = pager.ask("stats")
    for key in ("reads", "bytes", "hits", "misses", "frames", "pushed"):
        assert after[key] - before[key] == first[key] + second[key], key
    assert after["damaged"] >= before["damaged"]


def test_private_writes_stay_with_the_writer(pager: Any) -> None:
    memory = content(8)
    pager.slot("private", memory, hot=(1, 2))
    with pager.path("private").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        mapped[:PAGE] = b"\xff" * PAGE
        assert pager.path("private").read_bytes() == memory
        mapped.close()


def test_memory_opens_read_write_and_refuses_writes(pager: Any) -> None:
    pager.slot("fixed", content(2))
    fd = os.open(pager.path("fixed"), os.O_RDWR)
    try:
        with pytest.raises(OSError) as refused:
            os.pwrite(fd, b"x", 0)
        assert refused.value.errno == errno.EROFS
        os.ftruncate(fd, 2 * PAGE)  # the size it has
        with pytest.raises(PermissionError):
            os.ftruncate(fd, PAGE)
    finally:
        os.close(fd)


def test_damage_fails_its_reads_is_remembered_and_harms_no_other_slot(pager: Any) -> None:
    memory, sound = content(64, seed=77), content(64, seed=78)
    digest = pager.snapshot(memory)
    (layer,) = pager.store.load(digest).layers
    path = pager.store.layer_path(layer)
    stored = bytearray(path.read_bytes())
    stored[len(stored) // 3] ^= 1
    path.write_bytes(stored)
    pager.ask("create", "damaged", len(memory), 0)
    pager.ask("bind", "damaged", digest, hot=False)
    pager.slot("sound", sound)
    with pytest.raises(OSError) as failed:
        pager.path("damaged").read_bytes()
    assert failed.value.errno == errno.EIO
    assert layer.digest in pager.ask("stats", "damaged")["damage"]
    assert pager.path("sound").read_bytes() == sound
    assert pager.ask("stats", "sound")["damage"] is None


def test_a_bind_that_meets_damage_leaves_the_slot_unbound(pager: Any) -> None:
    memory = content(16, seed=79)
    digest = pager.snapshot(memory, hot=(1, 2))
    (layer,) = pager.store.load(digest).layers
    path = pager.store.layer_path(layer)
    whole = path.read_bytes()
    path.write_bytes(bytes(len(whole)))
    pager.ask("create", "again", len(memory), 0)
    with pytest.raises(Damaged, match=layer.digest):
        pager.ask("bind", "again", digest, hot=True)
    path.write_bytes(whole)
    pager.ask("bind", "again", digest, hot=True)
    assert pager.path("again").read_bytes() == memory


def test_dropped_caches_change_nothing_but_time(pager: Any) -> None:
    memory = content(64, seed=80)
    pager.slot("cold", memory)
    with pager.path("cold").open("rb", buffering=0) as file:
        assert file.read(PAGE) == memory[:PAGE]
        before = pager.ask("stats")["frames"]
        pager.ask("drop_caches")
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(0)
        assert b"".join(iter(lambda: file.read(PAGE), b"")) == memory
    assert pager.ask("stats")["frames"] > before
