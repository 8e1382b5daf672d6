"""The memory of templates in use, as plain files: what warm machines stand on.

A page of a file that is mapped privately by many is in the host's memory once, and reading it is a
matter of the kernel alone. That is worth an uncompressed copy for the few templates that runs
start from just now: sparse, some 100 MB each, made in a third of a second from frames that were
verified. The files live as long as the server: it removes what an earlier one left, so that
nothing has to be verified again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from torpor.core.memory import FLATS_MAX
from torpor.snapshot.layer import PAGE
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.pages import InFile, PageSource, page_ranges
from torpor.snapshot.reader import FrameCache, PageReader
from torpor.snapshot.store import SnapshotStore

_PAGES_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class Flat:
    """A template's memory: the file, and its pages. Both stay usable when the name is gone."""

    path: Path
    pages: PageSource


class Flats:
    """The templates used last. Thread-safe."""

    def __init__(self, directory: Path, store: SnapshotStore, region: str) -> None:
        """`region` is the memory's."""
        self.directory, self._region = directory, region
        self._store = store
        self._flats: OrderedDict[str, Flat] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def safe(self) -> bool:
        """Whether a hole of a file that is mapped takes no room when it is read. On a tmpfs it
        does, and where that is full, whoever reads it is killed."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _file_system(self.directory) != "tmpfs"

    def get(self, digest: str, manifest: Manifest) -> Flat:
        """The memory of the template whose manifest that is. Blocks while it is made. Raises
        Damaged, OSError (a full disk)."""
        with self._lock:
            flat = self._flats.get(digest)
            if flat is None:
                flat = self._flats[digest] = self._make(digest, manifest)
            self._flats.move_to_end(digest)
            while len(self._flats) > FLATS_MAX:
                _, oldest = self._flats.popitem(last=False)
                oldest.path.unlink()  # who has it mapped keeps it
            return flat

    def _make(self, digest: str, manifest: Manifest) -> Flat:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / digest
        memory = manifest.regions[self._region]
        # A cache of its own: whole layers pass through it, once.
        reader = self._store.reader(manifest, FrameCache(_PAGES_AT_ONCE * PAGE))
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, memory.length)
                _fill(fd, np.flatnonzero(memory.refs).astype(np.int64), reader, self._region)
            finally:
                os.close(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return Flat(path, InFile(path))


def _file_system(path: Path) -> str:
    """Its type, as Linux says; empty where nobody does."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            mount, _, kind = line.partition(" - ")
            if mount.split()[2] == number:
                return kind.split()[0]
    return ""


def _fill(
    fd: int, numbers: np.ndarray[tuple[int], np.dtype[np.int64]], reader: PageReader, region: str
) -> None:
    for begin in range(0, len(numbers), _PAGES_AT_ONCE):
        some = numbers[begin : begin + _PAGES_AT_ONCE]
        pages, at = reader.pages(region, some), 0
        for first, count in zip(*page_ranges(some), strict=True):
            os.pwrite(fd, pages[at : at + count].data, int(first) * PAGE)
            at += int(count)
