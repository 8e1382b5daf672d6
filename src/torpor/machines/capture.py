"""What one pause took of a machine (rule 7), and where its pages are until they are stored.

In the pause belongs what cannot be read later: the state of the devices, and which pages of memory
and disk changed. The pages themselves stay where they are, in the machine and in its disk's file,
as long as it stands still, and are read there when the snapshot is made. So a freeze copies
nothing. If the machine is to go on first, as after a checkpoint, they are copied out: into a
buffer that is there for that, or, when they are more, into a file without a name, which is the
kernel's to write out, not this process's to hold.

A snapshot of many pages takes long, and its machine may be needed before it is made: then it is
given up between two chunks (rule 11 cannot wait for it). One of few is quicker made than missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from torpor.core.errors import TorporError
from torpor.engine.memory import CopyBuffer, PageNumbers, Pages
from torpor.engine.protocol import Machine
from torpor.snapshot.build import Changed
from torpor.snapshot.layer import PAGE
from torpor.snapshot.pages import CHUNK_PAGES, InFile, InMemory, PageSource, Rows, chunks
from torpor.wire.link import LinkState


class GivenUp(TorporError):
    """A snapshot is not made, since its machine goes on."""


class InMachine:
    """Pages `numbers` of the memory of a machine that stands still."""

    def __init__(self, machine: Machine, numbers: PageNumbers) -> None:
        self._machine, self._numbers = machine, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def read(self, rows: Rows) -> Pages:
        pages = np.empty((len(rows), PAGE), np.uint8)
        self._machine.read_memory(self._numbers[rows], pages)
        return pages


class Taken:
    def __init__(
        self,
        link: LinkState,
        device: bytes,
        memory: Changed,
        disk: Changed,
        started: float,
    ) -> None:
        """`started`: when the machine was paused, by `time.perf_counter`."""
        self.link, self.device = link, device
        self._regions = {"memory": memory, "disk": disk}
        self._started = started
        self._in_place = True
        self._goes_on: Callable[[], bool] = lambda: False
        self.pause_ms = 0.0  # until the machine went on, or all was taken that keeps it from that
        self.note_pause()

    @property
    def memory(self) -> Changed:
        return self._stoppable("memory")

    @property
    def disk(self) -> Changed:
        return self._stoppable("disk")

    def note_pause(self) -> None:
        self.pause_ms = (time.perf_counter() - self._started) * 1000

    def give_up_if(self, goes_on: Callable[[], bool]) -> None:
        """Whoever makes a snapshot of many pages of it, looks at that before each chunk, in its own
        thread, and stops with GivenUp."""
        if sum(len(each.numbers) for each in self._regions.values()) > CHUNK_PAGES:
            self._goes_on = goes_on

    def copy_out(self, buffer: CopyBuffer, directory: Path) -> None:
        """Before the machine goes on: copy the pages, into `buffer` if they fit, else into a file
        in `directory`, which has no name afterwards. Raises OSError (a full disk), HostError."""
        if self._in_place:
            if sum(len(each.numbers) for each in self._regions.values()) <= buffer.pages:
                self._copy_to(buffer)
            else:
                self._spool(directory / "spool")
            self._in_place = False

    def _copy_to(self, buffer: CopyBuffer) -> None:
        room, start = buffer.room(buffer.pages), 0
        for name, region in self._regions.items():
            into = room[start : start + len(region.numbers)]
            for rows in chunks(len(into)):
                into[rows[0] : rows[-1] + 1] = region.pages.read(rows)
            self._move(name, InMemory(into))
            start += len(into)

    def _spool(self, path: Path) -> None:
        try:
            with path.open("xb", buffering=0) as file:
                for region in self._regions.values():
                    for rows in chunks(len(region.numbers)):
                        left = region.pages.read(rows).reshape(-1).data
                        while left:
                            left = left[file.write(left) :]
            start = 0
            for name, region in self._regions.items():
                stop = start + len(region.numbers)
                self._move(name, InFile(path, np.arange(start, stop)))
                start = stop
        finally:
            path.unlink(missing_ok=True)

    def _move(self, name: str, pages: PageSource) -> None:
        region = self._regions[name]
        self._regions[name] = Changed(region.length, region.numbers, pages)

    def _stoppable(self, name: str) -> Changed:
        region = self._regions[name]
        return Changed(region.length, region.numbers, _Stoppable(region.pages, self._goes_on))


class _Stoppable:
    def __init__(self, source: PageSource, goes_on: Callable[[], bool]) -> None:
        self._source, self._goes_on = source, goes_on

    def __len__(self) -> int:
        return len(self._source)

    def read(self, rows: Rows) -> Pages:
        if self._goes_on():
            raise GivenUp("the machine goes on")
        return self._source.read(rows)
