"""Who wants which names kept: records in a directory that the processes of a host share.

    holds/OWNER/          a process (an object of it); locked, by flock(2), for as long as it lives
    holds/OWNER/N.json    one hold: {"kind", "names", "since"}

A record goes when its hold ends. One whose owner has died counts no more: the lock of its directory
is free, since the kernel has released it, and `sweep` removes it. So nobody's death keeps anything
for ever, and no clock decides.

What a process holds itself it has in memory, too, and looks up there. A record that cannot be
written, on a full disk, is left at that: to restore a run must not need room.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import logging
import os
import secrets
import shutil
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from torpor.blobs.protocol import Hold

log = logging.getLogger(__name__)


class Holds:
    """Not thread-safe: the store calls it under the lock that guards its names, which other
    processes respect, too."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._mine: Counter[tuple[str, str]] = Counter()
        self._numbers = itertools.count(1)
        self._owner: Path | None = None
        self._lock = -1

    def take(self, kind: str, names: tuple[str, ...]) -> Path | None:
        """Hold these names; what `release` is to be given."""
        self._mine.update((kind, name) for name in names)
        try:
            record = self._own() / f"{next(self._numbers)}.json"
            record.write_text(json.dumps({"kind": kind, "names": names, "since": time.time()}))
        except OSError as error:
            log.warning("a hold is not recorded: %s", error)
            return None
        return record

    def release(self, kind: str, names: tuple[str, ...], record: Path | None) -> None:
        self._mine.subtract((kind, name) for name in names)
        self._mine += Counter()  # forgets those that came to 0
        if record is not None:
            with contextlib.suppress(OSError):
                record.unlink()

    def has(self, kind: str, name: str) -> bool:
        return bool(self._mine[kind, name]) or any(
            hold.kind == kind and name in hold.names for hold in self._of_others()
        )

    def all(self) -> list[Hold]:
        own = [] if self._owner is None else list(_records(self._owner))
        return [*own, *self._of_others()]

    def sweep(self) -> None:
        """Remove the records of owners that are dead."""
        for owner in self._others():
            if not _lives(owner):
                shutil.rmtree(owner, ignore_errors=True)

    def close(self) -> None:
        """End all that is held here."""
        self._mine.clear()
        if self._owner is not None:
            shutil.rmtree(self._owner, ignore_errors=True)
            os.close(self._lock)
            self._owner = None

    def _own(self) -> Path:
        if self._owner is None:
            name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            owner = self._directory / name
            owner.mkdir(mode=0o700, parents=True)
            self._lock = os.open(owner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._owner = owner
        return self._owner

    def _others(self) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            return [path for path in self._directory.iterdir() if path != self._owner]
        return []

    def _of_others(self) -> Iterator[Hold]:
        for owner in self._others():
            if _lives(owner):
                yield from _records(owner)


def _records(owner: Path) -> Iterator[Hold]:
    for record in owner.glob("*.json"):
        # Gone, or of a process that was killed as it wrote: it had not been told that it holds.
        with contextlib.suppress(OSError, ValueError, KeyError):
            read = json.loads(record.read_bytes())
            yield Hold(owner.name, read["kind"], tuple(read["names"]), read["since"])


def _lives(owner: Path) -> bool:
    try:
        fd = os.open(owner, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
