"""Immutable bytes by name in a directory tree: `root/KIND/AA/NAME`, AA the name's first two
characters.

Names are digests that the caller computed; this module never looks inside. What it promises:

- A name that can be seen is complete: bytes go to a file in `root/tmp`, are fsynced there, and
  only then get their name by rename(2).
- When `put` or `put_all` returns, the bytes and the name survive a power cut (rule 5 builds on
  this): the name's directory was fsynced after the rename.
- A put that fails, on a full disk for example, leaves nothing behind. A crash leaves at most
  files in `root/tmp`, which `sweep` removes.

O_TMPFILE would make `sweep` needless, but overlay and network file systems lack it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torpor.model.errors import Exhausted, HostError, InternalError, NotFound

_T = TypeVar("_T")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Chunks per writev(2) call; Linux takes at most 1024 (IOV_MAX).
_CHUNKS_PER_WRITE = 512


@dataclass(frozen=True)
class Blob:
    """Bytes to store, in order, under `kind` and `name`."""

    kind: str
    name: str
    chunks: tuple[bytes, ...]

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks))


@dataclass(frozen=True)
class _Staged:
    blob: Blob
    temporary: Path | None  # None: the name was there already


class LocalBlobs:
    """The store below `root`, which is made if absent, for this user only. Safe to use from
    many threads, and from many processes as long as only one of them sweeps, before the
    others write."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / "tmp"
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="blobs")
        with _full_disk(f"cannot make {self._tmp}"):
            _make_directory(self._tmp)

    def path(self, kind: str, name: str) -> Path:
        """Where the blob is, or would be."""
        for part in (kind, name):
            if len(part) < 2 or not part.isascii() or not part.isalnum():
                raise InternalError(f"{part!r} cannot name a blob")
        return self.root / kind / name[:2] / name

    def put(self, kind: str, name: str, chunks: Iterable[bytes]) -> None:
        """Store one blob durably; nothing happens if the name exists. Raises Exhausted."""
        self.put_all([Blob(kind, name, tuple(chunks))])

    def put_all(self, blobs: Iterable[Blob]) -> None:
        """Store several blobs durably, at the cost of about one.

        They are written and fsynced side by side, each as soon as the iterable yields it, and
        none gets its name before all are on the disk. Names appear in the order given, so one
        that refers to others comes last. Raises Exhausted on a full disk, HostError on other
        trouble, and then none of the new blobs is there (unless the trouble was in naming the
        second or a later one).
        """
        writes: list[Future[_Staged]] = []
        staged: list[_Staged] = []
        try:
            for blob in blobs:
                writes.append(self._pool.submit(self._stage, blob))
            staged = _all(writes)
            with _full_disk(f"cannot name a file in {self.root}"):
                for one in staged:
                    if one.temporary is not None:
                        one.temporary.rename(self.path(one.blob.kind, one.blob.name))
            # Also for names that were there: another thread may have renamed but not yet synced.
            places = {self.path(one.blob.kind, one.blob.name).parent for one in staged}
            _all([self._pool.submit(self._sync, place) for place in places])
        except BaseException:
            wait(writes)
            for write in writes:
                if write.exception() is None and (temporary := write.result().temporary):
                    temporary.unlink(missing_ok=True)
            raise

    def get(self, kind: str, name: str) -> bytes:
        """All bytes of a blob. Raises NotFound."""
        try:
            return self.path(kind, name).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"no {name} among the {kind} in {self.root}") from error

    def exists(self, kind: str, name: str) -> bool:
        return self.path(kind, name).is_file()

    def delete(self, kind: str, name: str) -> None:
        """Remove a blob; nothing happens if it is absent. Readers that opened it read on."""
        self.path(kind, name).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what writers that died left in `root/tmp`; the number of files removed.

        Only for a time when nobody writes: a server calls it once, when it starts.
        """
        left = list(self._tmp.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def _stage(self, blob: Blob) -> _Staged:
        """Bring the bytes to the disk under a temporary name."""
        final = self.path(blob.kind, blob.name)
        with _full_disk(f"cannot write {blob.name} ({blob.size:,} bytes) to {self.root}"):
            # A file of another length is damaged (names are digests): it is replaced.
            if final.is_file() and final.stat().st_size == blob.size:
                return _Staged(blob, None)
            _make_directory(final.parent)
            temporary = self._tmp / f"{blob.name}.{secrets.token_hex(8)}"
            try:
                _write_durably(temporary, blob.chunks)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return _Staged(blob, temporary)

    def _sync(self, directory: Path) -> None:
        with _full_disk(f"cannot sync {directory}"):
            _sync_directory(directory)


def _all(futures: list[Future[_T]]) -> list[_T]:
    """Every result, or the first error, once all have ended."""
    wait(futures)
    return [future.result() for future in futures]


@contextlib.contextmanager
def _full_disk(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = f"{doing}: {error.strerror or error}"
        if error.errno in _FULL:
            raise Exhausted(
                reason, hint="Free space on that file system, then try again; nothing was lost."
            ) from error
        raise HostError(reason, hint="Check that file system and its permissions.") from error


def _write_durably(path: Path, chunks: tuple[bytes, ...]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for start in range(0, len(chunks), _CHUNKS_PER_WRITE):
            _write_all(fd, chunks[start : start + _CHUNKS_PER_WRITE])
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, chunks: tuple[bytes, ...]) -> None:
    left = [memoryview(chunk) for chunk in chunks if chunk]
    while left:
        written = os.writev(fd, left)  # may be short: a signal, or the last block of a disk
        while left and written >= len(left[0]):
            written -= len(left.pop(0))
        if left:
            left[0] = left[0][written:]


def _make_directory(path: Path) -> None:
    """Make a directory and its parents so that they survive a power cut."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
