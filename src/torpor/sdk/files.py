"""Whether a step wrote files: what it wrote is not in the log, so a snapshot has to have it.

The agent's home and the directories for temporary files are watched by inotify, by path: what a
child process writes counts, too. A step compares the state before its body with that after it
(`Changes.mark`); what another thread writes meanwhile counts for both, which costs a snapshot and
loses nothing. What cannot be watched (too many directories, events that were dropped) is said by
the file system's free blocks and inodes; a file that keeps its size is missed then.
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Collection, Iterable
from typing import NamedTuple

DIRECTORIES_MAX = 2000
_READ_BYTES = 64 * 1024
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_MODIFY, _ATTRIB, _OPEN, _CREATE, _DELETE = 0x2, 0x4, 0x20, 0x100, 0x200
_MOVED = 0x40 | 0x80
WRITTEN = _MODIFY | _ATTRIB | _CREATE | _DELETE | _MOVED
OPENED = WRITTEN | _OPEN
_ONLYDIR, _DONT_FOLLOW = 0x1000000, 0x2000000
_OVERFLOW, _IS_DIRECTORY = 0x4000, 0x40000000
# Absent on Windows, where tests of agents run, too.
_CLOEXEC, _NONBLOCK = getattr(os, "O_CLOEXEC", 0), getattr(os, "O_NONBLOCK", 0)


class Mark(NamedTuple):
    """A moment of the files: equal as long as nothing was written."""

    events: int
    free: tuple[int, ...]


class Changes:
    """Watches the directories below `roots` from now on: what is written there, or `OPENED`, then
    also which files are opened. To open a directory is nothing. Not watched are directories of the
    names `besides`."""

    def __init__(
        self, roots: Iterable[str], events: int = WRITTEN, *, besides: Collection[str] = ()
    ) -> None:
        self._roots = [os.path.realpath(root) for root in roots]
        self._besides = frozenset(besides)
        self._watched = events
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._lock = threading.Lock()
        self._events = 0
        self._paths: dict[int, str] = {}  # by watch
        self._fd: int = self._libc.inotify_init1(_CLOEXEC | _NONBLOCK)
        self._partial: bool = self._fd < 0  # not everything is watched
        for root in self._roots:
            self._watch(root)

    @property
    def is_partial(self) -> bool:
        """Whether something may have happened that was not seen."""
        return self._partial

    def close(self) -> None:
        """Watch no more."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def mark(self) -> Mark:
        with self._lock:
            self._take()
            return Mark(self._events, self._free() if self._partial else ())

    @property
    def sees_all(self) -> bool:
        """Nothing was written without being counted, but through a mapping."""
        return not self._partial

    def _take(self) -> None:
        """Count what has happened, and watch the directories that are new."""
        while self._fd >= 0:
            try:
                data = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                watch, mask, _, length = _EVENT.unpack_from(data, at)
                name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
                at += _EVENT.size + length
                self._events += not (mask & _OPEN and mask & _IS_DIRECTORY)
                self._partial |= bool(mask & _OVERFLOW)
                if mask & _IS_DIRECTORY and mask & (_CREATE | _MOVED) and watch in self._paths:
                    self._watch(os.path.join(self._paths[watch], os.fsdecode(name)))  # noqa: PTH118

    def _watch(self, root: str) -> None:
        """`root` and all directories below it."""
        for directory, inner, _ in os.walk(root):
            inner[:] = [name for name in inner if name not in self._besides]
            if len(self._paths) >= DIRECTORIES_MAX or not self._watch_one(directory):
                self._partial = True
                inner.clear()

    def _watch_one(self, directory: str) -> bool:
        mask = self._watched | _ONLYDIR | _DONT_FOLLOW
        watch: int = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), mask)
        if watch >= 0:
            self._paths[watch] = directory
        return watch >= 0

    def _free(self) -> tuple[int, ...]:
        free: list[int] = []
        for root in self._roots:
            try:
                of = os.statvfs(root)
            except OSError:
                continue
            free += (of.f_bfree, of.f_ffree)
        return tuple(free)


_changes: Changes | None = None


def watch(roots: Iterable[str]) -> None:
    """Begin to watch."""
    global _changes
    there = [root for root in roots if os.path.isdir(root)]  # noqa: PTH112
    _changes = Changes(there) if there else None


def mark() -> Mark | None:
    """None where nothing is watched."""
    return None if _changes is None else _changes.mark()
