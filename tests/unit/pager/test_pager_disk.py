"""The disk file against a model: a bytearray, and which of its pages were written."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.snapshot.layer import PAGE

PAGES = 48
MEMORY = bytes(PAGE)
_names = (f"disk{n}" for n in count())


def content(seed: int = 5) -> bytes:
    noise = random.Random(seed)
    return b"".join(noise.randbytes(PAGE) if n % 4 else bytes(PAGE) for n in range(PAGES))


DISK = content()

# Offsets and lengths that favour the edges of pages.
SPOT = st.builds(
    lambda page, delta: max(0, min(PAGES * PAGE - 1, page * PAGE + delta)),
    st.integers(0, PAGES - 1),
    st.one_of(st.sampled_from([0, 1, -1]), st.integers(0, PAGE)),
)
LENGTH = st.one_of(st.sampled_from([1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE]), st.integers(1, 20_000))
OPERATIONS = st.lists(st.tuples(st.sampled_from(["read", "write"]), SPOT, LENGTH), max_size=30)


def runs_of(pages: set[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for page in sorted(pages):
        if found and sum(found[-1]) == page:
            found[-1][1] += 1
        else:
            found.append([page, 1])
    return found


# The pager is shared by all examples on purpose: each takes a new slot of it.
@settings(max_examples=25, deadline=None)
@given(operations=OPERATIONS, seed=st.integers(0, 99))
def test_disk_is_a_bytearray_that_knows_its_written_pages(
    pager: Any, operations: list[tuple[str, int, int]], seed: int
) -> None:
    name, noise = next(_names), random.Random(seed)
    model, written = bytearray(DISK), set[int]()
    pager.slot(name, MEMORY, DISK)
    fd = os.open(pager.path(name, "disk"), os.O_RDWR)
    try:
        for operation, offset, length in operations:
            if operation == "read":
                assert os.pread(fd, length, offset) == model[offset : offset + length]
            else:
                data = noise.randbytes(min(length, len(model) - offset))
                assert os.pwrite(fd, data, offset) == len(data)
                model[offset : offset + len(data)] = data
                written.update(range(offset // PAGE, (offset + len(data) - 1) // PAGE + 1))
        os.fsync(fd)
        assert os.pread(fd, len(model), 0) == model
        dirty = pager.ask("dirty", name)
        assert dirty["pages"] == runs_of(written)
        stored = Path(dirty["overlay"]).read_bytes()
        for start, pages in dirty["pages"]:
            extent = slice(start * PAGE, (start + pages) * PAGE)
            assert stored[extent] == model[extent]
    finally:
        os.close(fd)
        pager.ask("drop", name)
    assert not Path(dirty["overlay"]).exists()


def test_before_the_bind_the_disk_reads_as_zeros_and_refuses_writes(pager: Any) -> None:
    digest = pager.snapshot(MEMORY, DISK)
    pager.ask("create", "unbound", len(MEMORY), len(DISK))
    fd = os.open(pager.path("unbound", "disk"), os.O_RDWR)
    try:
        assert os.pread(fd, 3 * PAGE, 100) == bytes(3 * PAGE)
        with pytest.raises(OSError) as refused:
            os.pwrite(fd, b"x", 0)
        assert refused.value.errno == errno.EROFS
        pager.ask("bind", "unbound", digest, hot=False)
        assert os.pread(fd, len(DISK), 0) == DISK  # nothing of the zeros was kept
    finally:
        os.close(fd)


def test_writes_into_one_page_at_once_are_all_kept(pager: Any) -> None:
    """Each completes the page from the snapshot; none may put back what another wrote."""
    pager.slot("shared", MEMORY, DISK)
    pager.ask("drop_caches")  # the completion takes its time then
    fds = [os.open(pager.path("shared", "disk"), os.O_RDWR) for _ in range(8)]
    writers = [
        threading.Thread(target=os.pwrite, args=(fd, bytes([n]) * 512, 5 * PAGE + 512 * n))
        for n, fd in enumerate(fds)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert os.pread(fds[0], PAGE, 5 * PAGE) == b"".join(bytes([n]) * 512 for n in range(8))
    for fd in fds:
        os.close(fd)


def test_a_write_past_the_end_is_refused_and_changes_nothing(pager: Any) -> None:
    pager.slot("end", MEMORY, DISK)
    fd = os.open(pager.path("end", "disk"), os.O_RDWR)
    try:
        with pytest.raises(OSError) as refused:
            os.pwrite(fd, b"abc", len(DISK) - 1)
        assert refused.value.errno == errno.ENOSPC
        assert os.pread(fd, len(DISK) + 1, 0) == DISK
        assert pager.ask("dirty", "end")["pages"] == []
    finally:
        os.close(fd)


@pytest.fixture
def small_machines_directory(idle_pager: Any) -> Iterator[Any]:
    """A pager whose overlays have 64 KiB of space together."""
    machines = idle_pager.home.machines
    machines.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(machines)]
    if os.getuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        idle_pager.start()
        yield idle_pager
    finally:
        idle_pager.stop()
        subprocess.run(["umount", "--lazy", str(machines)], check=True)


def test_a_full_host_disk_is_enospc_and_the_failed_pages_stay_the_snapshots(
    small_machines_directory: Any,
) -> None:
    pager = small_machines_directory
    pager.slot("full", MEMORY, DISK)
    fd = os.open(pager.path("full", "disk"), os.O_RDWR)
    try:
        os.pwrite(fd, b"kept" * PAGE, 0)  # 16 KiB
        with pytest.raises(OSError) as refused:
            os.pwrite(fd, b"lost" * (16 * PAGE), 8 * PAGE)
        assert refused.value.errno == errno.ENOSPC
        assert os.pread(fd, len(DISK), 0) == b"kept" * PAGE + DISK[4 * PAGE :]
        assert pager.ask("dirty", "full")["pages"] == [[0, 4]]
    finally:
        os.close(fd)
