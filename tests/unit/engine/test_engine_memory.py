"""What changed in the private mapping of a process: a real one, which writes where it is told."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torpor.core.errors import HostError, InternalError
from torpor.engine import memory
from torpor.engine.memory import (
    PAGE,
    CopyBuffer,
    PageNumbers,
    Pages,
    changed_pages,
    mapping_of,
    read_pages,
    touched_pages,
)

PAGES = 6000
LENGTH = PAGES * PAGE
CHILD = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
area = None
for line in sys.stdin:
    verb, *numbers = line.split()
    if verb == "map":
        if area is not None:
            area.close()
        area = mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    for number in map(int, numbers):
        at = number * 4096
        if verb == "write":
            area[at : at + 8] = number.to_bytes(8, "big")
        else:
            area[at]
    print(flush=True)
"""


class Child:
    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        self.path = path
        data = np.arange(PAGES, dtype="<u8").repeat(PAGE // 8)
        path.write_bytes(data.tobytes())
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.map()

    @property
    def pid(self) -> int:
        return self.process.pid

    def map(self) -> None:
        self.ask("map")
        self.address = mapping_of(self.pid, str(self.path), LENGTH)

    def ask(self, verb: str, numbers: Iterable[int] = ()) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(" ".join([verb, *map(str, numbers)]) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "\n"

    def changed(self) -> PageNumbers:
        return changed_pages(self.pid, self.address, LENGTH)

    def read(self, numbers: PageNumbers) -> Pages:
        into = np.empty((len(numbers), PAGE), np.uint8)
        read_pages(self.pid, self.address, numbers, into)
        return into

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    child = Child(tmp_path_factory.mktemp("memory") / "a file, mapped")
    yield child
    child.close()


def written(numbers: PageNumbers) -> Pages:
    """Those pages as the child leaves them when it has written them."""
    pages = numbers.astype("<u8").repeat(PAGE // 8).reshape(-1, PAGE // 8).copy()
    pages[:, 0] = numbers.astype(">u8").view("<u8")
    return pages.view(np.uint8).reshape(-1, PAGE)


NUMBERS = st.sets(st.integers(0, PAGES - 1), max_size=60)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(writes=NUMBERS, reads=NUMBERS, again=NUMBERS)
def test_changed_is_exactly_what_was_written(
    child: Child, writes: set[int], reads: set[int], again: set[int]
) -> None:
    child.map()
    assert not len(child.changed())
    child.ask("read", reads)
    child.ask("write", writes)
    assert child.changed().tolist() == sorted(writes)
    child.ask("write", again)
    child.ask("read", reads)
    numbers = child.changed()
    assert numbers.tolist() == sorted(writes | again)
    assert numbers.dtype == np.int64
    assert np.array_equal(child.read(numbers), written(numbers))
    touched = touched_pages(child.pid, child.address, LENGTH)
    assert writes | again | reads <= set(touched.tolist())
    # The file is as it was.
    assert child.path.read_bytes()[:8] == bytes(8)


def test_more_runs_than_one_call_takes(child: Child) -> None:
    child.map()
    every_other = np.arange(1, PAGES, 2, dtype=np.int64)
    assert len(every_other) > 2 * memory._IOV_MAX
    child.ask("write", every_other.tolist())
    assert np.array_equal(child.changed(), every_other)
    assert np.array_equal(child.read(every_other), written(every_other))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=NUMBERS, call_max=st.integers(1, 7), iov_max=st.integers(1, 5))
def test_however_the_calls_are_divided(
    child: Child, numbers: set[int], call_max: int, iov_max: int
) -> None:
    child.map()
    wanted = np.array(sorted(numbers), dtype=np.int64)
    child.ask("write", wanted.tolist())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "_CALL_PAGES_MAX", call_max)
        patch.setattr(memory, "_IOV_MAX", iov_max)
        assert np.array_equal(child.read(wanted), written(wanted))


def test_pages_that_were_not_written_read_as_the_file(child: Child) -> None:
    child.map()
    numbers = np.array([0, 5, PAGES - 1], dtype=np.int64)
    expected = numbers.astype("<u8").repeat(PAGE // 8).view(np.uint8).reshape(-1, PAGE)
    assert np.array_equal(child.read(numbers), expected)


def test_what_is_not_mapped(child: Child, tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=f"process {child.pid} does not map .* with 4096 bytes"):
        mapping_of(child.pid, str(child.path), PAGE)
    with pytest.raises(InternalError, match="does not map"):
        mapping_of(child.pid, str(tmp_path / "another"), LENGTH)


def test_beyond_the_mapping(child: Child) -> None:
    with pytest.raises((OSError, InternalError), match=f"process_vm_readv of {child.pid}"):
        child.read(np.array([PAGES - 1, PAGES + 100_000], dtype=np.int64))


def test_a_process_that_has_ended_has_not_changed_nothing(tmp_path: Path) -> None:
    """Else a snapshot of a machine that was just killed would lack its memory."""
    child = Child(tmp_path / "memory")
    child.ask("write", [1, 2])
    child.process.kill()
    child.process.stdout.read()  # type: ignore[union-attr]
    # It is waited for later: until then it is still in /proc.
    with pytest.raises(ProcessLookupError):
        child.changed()
    with pytest.raises(ProcessLookupError):
        child.read(np.array([1], dtype=np.int64))
    child.close()
    with pytest.raises(FileNotFoundError):
        child.changed()


def test_less_than_was_asked_for_is_no_answer(child: Child) -> None:
    """As the kernel gives when the process ends just then; here because the memory ends."""
    with pytest.raises(HostError, match=f"process {child.pid} ended while"):
        changed_pages(child.pid, (1 << 47) - 2 * PAGE, 10 * PAGE)


def test_the_copy_buffer_is_the_same_memory_each_time() -> None:
    buffer = CopyBuffer(4 * PAGE)
    first = buffer.room(3)
    assert buffer.pages == 4 and first.shape == (3, PAGE)
    assert buffer.room(0).shape == (0, PAGE)
    assert buffer.room(4).ctypes.data == first.ctypes.data
    assert buffer.room(5).shape == (4, PAGE)
