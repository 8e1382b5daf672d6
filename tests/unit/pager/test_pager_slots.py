"""Slots as a whole: their life, many at once, and what is refused."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from torpor.core.errors import CallerError, Conflict, Invalid, NotFound
from torpor.snapshot.layer import PAGE

MEMORY = b"".join(bytes([n]) * PAGE for n in range(1, 33))
DISK = b"d" * (8 * PAGE)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_slot_is_a_directory_of_two_files(pager: Any) -> None:
    pager.slot("seen", MEMORY, DISK)
    assert "seen" in names(pager.home.mount)
    assert names(pager.home.mount / "seen") == {"disk", "memory"}
    assert pager.path("seen", "disk").stat().st_size == len(DISK)
    with pytest.raises(FileNotFoundError):
        pager.path("seen", "other").stat()
    with pytest.raises(OSError):
        (pager.home.mount / "new").mkdir()


def test_a_dropped_slot_serves_whoever_has_it_open_and_its_name_is_free(pager: Any) -> None:
    pager.slot("reused", MEMORY, DISK)
    memory = os.open(pager.path("reused"), os.O_RDONLY)
    disk = os.open(pager.path("reused", "disk"), os.O_RDWR)
    os.pwrite(disk, b"written", 3)
    pager.ask("drop", "reused")
    assert "reused" not in names(pager.home.mount)
    assert not pager.path("reused").exists()
    other = MEMORY[::-1]
    pager.slot("reused", other, DISK)
    assert os.pread(memory, len(MEMORY), 0) == MEMORY
    os.pwrite(disk, b"still", PAGE)
    assert os.pread(disk, 10, 3) == b"writtenddd"
    assert os.pread(disk, 5, PAGE) == b"still"
    assert pager.path("reused").read_bytes() == other
    assert pager.path("reused", "disk").read_bytes() == DISK
    os.close(memory)
    os.close(disk)
    assert pager.path("reused").read_bytes() == other


def test_dropping_an_unbound_slot_ends_the_reads_that_wait_for_it(pager: Any) -> None:
    pager.ask("create", "hopeless", len(MEMORY), 0)
    reading = pager.reading("hopeless")
    pager.ask("drop", "hopeless")
    failed = reading.result()
    assert isinstance(failed, OSError)
    assert failed.errno == errno.EIO


def test_slots_that_are_waited_for_do_not_hold_up_others(pager: Any) -> None:
    waited = [f"waited{n}" for n in range(4)]
    for name in waited:
        pager.ask("create", name, len(MEMORY), 0)
    readings = [pager.reading(name) for name in waited]
    pager.slot("served", MEMORY)
    assert pager.path("served").read_bytes() == MEMORY
    for name, reading in zip(waited, readings, strict=True):
        pager.ask("drop", name)
        assert isinstance(reading.result(), OSError)


def test_many_slots_at_once_each_have_their_own_bytes(pager: Any) -> None:
    def life(n: int) -> None:
        memory = b"".join((n * 1000 + page).to_bytes(8, "big") * (PAGE // 8) for page in range(40))
        name = f"many{n}"
        pager.slot(name, memory, DISK, hot=(n, n + 1))
        fd = os.open(pager.path(name, "disk"), os.O_RDWR)
        os.pwrite(fd, name.encode(), n * 100)
        wrong[n] = pager.path(name).read_bytes() != memory
        wrong[n] |= os.pread(fd, len(name), n * 100) != name.encode()
        wrong[n] |= pager.ask("dirty", name)["pages"] != [[n * 100 // PAGE, 1]]
        os.close(fd)
        pager.ask("drop", name)

    wrong: dict[int, bool] = {}
    lives = [threading.Thread(target=life, args=(n,)) for n in range(24)]
    for one in lives:
        one.start()
    for one in lives:
        one.join()
    assert wrong == dict.fromkeys(range(24), False)


@pytest.mark.parametrize(
    ("name", "memory", "disk"),
    [
        ("../up", PAGE, PAGE),
        ("", PAGE, PAGE),
        (".hidden", PAGE, PAGE),
        ("a/b", PAGE, PAGE),
        ("n" * 65, PAGE, PAGE),
        ("odd", PAGE + 1, PAGE),
        ("odd", PAGE, 5),
        ("negative", PAGE, -PAGE),
        ("huge", 1 << 50, PAGE),
    ],
)
def test_bad_names_and_sizes_are_refused(pager: Any, name: str, memory: int, disk: int) -> None:
    with pytest.raises(Invalid):
        pager.ask("create", name, memory, disk)
    with pytest.raises(NotFound):
        pager.ask("stats", name)


def test_what_cannot_be_done_is_refused_and_changes_nothing(pager: Any) -> None:
    digest = pager.snapshot(MEMORY, DISK)
    pager.ask("create", "strict", len(MEMORY), len(DISK))
    pager.ask("create", "small", PAGE, len(DISK))
    refused: list[tuple[type[CallerError], tuple[Any, ...]]] = [
        (Conflict, ("create", "strict", PAGE, PAGE)),
        (NotFound, ("bind", "nobody", digest)),
        (NotFound, ("bind", "strict", "ab" * 32)),
        (Invalid, ("bind", "strict", "../../etc/passwd")),
        (Invalid, ("bind", "small", digest)),
        (NotFound, ("drop", "nobody")),
        (NotFound, ("dirty", "nobody")),
        (Invalid, ("readahead", -1)),
    ]
    for error, request in refused:
        with pytest.raises(error):
            pager.ask(*request)
    pager.ask("bind", "strict", digest)
    with pytest.raises(Conflict, match="bound already"):
        pager.ask("bind", "strict", digest)
    assert pager.path("strict").read_bytes() == MEMORY


def test_a_slot_without_memory_becomes_another(pager: Any) -> None:
    """The disk of a warm machine: its memory is elsewhere."""
    other = b"o" * len(DISK)
    pager.ask("create", "warm", 0, len(DISK))
    pager.ask("bind", "warm", pager.snapshot(MEMORY, DISK), hot=False)
    disk = os.open(pager.path("warm", "disk"), os.O_RDWR)
    os.pwrite(disk, b"written", 3)
    assert os.pread(disk, 10, 0) == b"dddwritten"
    pager.ask("bind", "warm", pager.snapshot(MEMORY[::-1], other), hot=False)
    assert pager.ask("dirty", "warm")["pages"] == []
    assert os.pread(disk, len(DISK), 0) == other
    os.pwrite(disk, b"again", PAGE)
    assert pager.ask("dirty", "warm")["pages"] == [[1, 1]]
    assert os.pread(disk, 6, PAGE) == b"againo"
    assert pager.path("warm").stat().st_size == 0
    with pytest.raises(Invalid):
        pager.ask("bind", "warm", pager.snapshot(MEMORY, DISK[PAGE:]), hot=False)
    os.close(disk)
    pager.ask("drop", "warm")
