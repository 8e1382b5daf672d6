"""What a pause took: read where it is, copied out before the machine goes on, the same bytes."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.engine.memory import CopyBuffer, PageNumbers
from torpor.machines import capture as module
from torpor.machines.capture import GivenUp, InMachine, Taken
from torpor.snapshot.build import Changed
from torpor.snapshot.layer import PAGE, Pages
from torpor.snapshot.pages import InFile, chunks
from torpor.wire.link import Link

PAGES = 64


class Guest:
    """Memory that changes as soon as the machine goes on."""

    def __init__(self) -> None:
        self.memory = np.random.default_rng(1).integers(0, 256, (PAGES, PAGE)).astype(np.uint8)

    def read_memory(self, numbers: PageNumbers, into: Pages) -> None:
        into[:] = self.memory[numbers]


class Stand:
    def __init__(self, directory: Path, memory: set[int], disk: set[int]) -> None:
        self.directory = directory
        self.guest = Guest()
        self.disk = directory / "disk"
        content = np.random.default_rng(2).integers(0, 256, (PAGES, PAGE)).astype(np.uint8)
        self.disk.write_bytes(content.tobytes())
        numbers = {"memory": array(memory), "disk": array(disk)}
        self.held = {
            "memory": self.guest.memory[numbers["memory"]],
            "disk": content[numbers["disk"]],
        }
        machine: object = self.guest
        self.taken = Taken(
            Link().state(),
            b"device",
            {
                "memory": changed(numbers["memory"], InMachine(machine, numbers["memory"])),  # type: ignore[arg-type]
                "disk": changed(numbers["disk"], InFile(self.disk, numbers["disk"])),
            },
            0.0,
        )

    def go_on(self) -> None:
        """The guest writes to all that it has."""
        self.guest.memory[:] = 0
        self.disk.write_bytes(bytes(PAGES * PAGE))

    def intact(self) -> bool:
        regions = self.taken.regions
        return all((whole(region) == self.held[name]).all() for name, region in regions.items())


def array(numbers: set[int]) -> PageNumbers:
    return np.array(sorted(numbers), dtype=np.int64)


def changed(numbers: PageNumbers, pages: InMachine | InFile) -> Changed:
    return Changed(PAGES * PAGE, numbers, pages)


def whole(region: Changed) -> Pages:
    return region.pages.read(np.arange(len(region.numbers)))


NUMBERS = st.sets(st.integers(0, PAGES - 1))


@given(NUMBERS, NUMBERS, st.integers(1, 2 * PAGES), st.integers(1, PAGES))
def test_what_is_copied_out_is_what_there_was(
    tmp_path_factory: pytest.TempPathFactory,
    memory: set[int],
    disk: set[int],
    room: int,
    chunk: int,
) -> None:
    stand = Stand(tmp_path_factory.mktemp("taken"), memory, disk)
    assert stand.intact()
    with pytest.MonkeyPatch.context() as limits:
        limits.setattr("torpor.snapshot.pages.CHUNK_PAGES", chunk)
        stand.taken.copy_out(CopyBuffer(room * PAGE), stand.directory)
    stand.go_on()
    assert stand.intact()
    stand.taken.copy_out(CopyBuffer(PAGE), stand.directory)  # once is enough
    assert stand.intact()
    assert [path.name for path in stand.directory.iterdir()] == ["disk"]


@pytest.mark.parametrize("room", [1, PAGES])
def test_what_is_not_copied_out_is_of_the_machine(tmp_path: Path, room: int) -> None:
    stand = Stand(tmp_path, {1, 2}, {3})
    stand.go_on()
    assert not stand.intact()


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(tmp_path, {1, 2, 3}, {4})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(InMachine, "read", full)
    with pytest.raises(OSError, match="No space left"):
        stand.taken.copy_out(CopyBuffer(PAGE), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["disk"]


@pytest.mark.parametrize("many", [True, False])
def test_only_a_snapshot_of_many_pages_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, many: bool
) -> None:
    stand = Stand(tmp_path, set(range(20)), set(range(20)))
    monkeypatch.setattr(module, "CHUNK_PAGES", 39 if many else 40)
    goes_on = False
    stand.taken.give_up_if(lambda: goes_on)
    memory = stand.taken.regions["memory"]
    for rows in chunks(20):
        memory.pages.read(rows)
    goes_on = True
    if many:
        with pytest.raises(GivenUp):
            memory.pages.read(np.array([0]))
    else:
        assert stand.intact()
