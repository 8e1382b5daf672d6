"""Immutable bytes by name in a directory tree: `root/KIND/AA/NAME`, AA the name's first two
characters. How it keeps the promises of `torpor.blobs.protocol.Blobs`:

- Bytes go to a file in `root/tmp`, are fsynced there, and only then get their name by rename(2);
  then the name's directory is fsynced.
- A crash leaves at most files in `root/tmp`, and records in `root/holds`.
- A name's age is its file's modification time. Ages and holds (`torpor.blobs.holds`) are looked at
  and acted upon under one lock, for which `root/tmp` is locked, too, against other processes.

O_TMPFILE would make `sweep` needless, but overlay and network file systems lack it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from torpor.blobs.holds import Holds
from torpor.blobs.protocol import Blob, Hold, Present
from torpor.core.errors import Exhausted, HostError, InternalError, NotFound

_T = TypeVar("_T")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# Chunks per writev(2) call; Linux takes at most 1024 (IOV_MAX).
_CHUNKS_PER_WRITE = 512
_SYNC_BYTES = 32 << 20
TMP, HOLDS = "tmp", "holds"


class LocalDraft:
    """See `torpor.blobs.protocol.Draft`: a file in `root/tmp`.

    What was written is sent to the disk every now and then, so that the fsync in the end, which
    somebody waits for, has little left to do.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / f"draft.{secrets.token_hex(8)}"
        self.size = 0
        self._fd: int | None = None
        self._synced = 0

    def write(self, chunks: Sequence[bytes]) -> None:
        with _full_disk(f"cannot write {self.path}"):
            if self._fd is None:
                self._fd = _create(self.path)
            for start in range(0, len(chunks), _CHUNKS_PER_WRITE):
                _write_all(self._fd, chunks[start : start + _CHUNKS_PER_WRITE])
            self.size += sum(map(len, chunks))
            if self.size - self._synced >= _SYNC_BYTES:
                os.fdatasync(self._fd)
                self._synced = self.size

    def finish(self) -> None:
        """Bring all to the disk."""
        assert self._fd is not None
        os.fsync(self._fd)
        self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@dataclass(frozen=True)
class _Staged:
    blob: Blob
    temporary: Path | None  # None: the name was there already


class LocalBlobs:
    """See `torpor.blobs.protocol.Blobs`. `root` is made if absent, for this user only."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tmp = root / TMP
        self._lock = threading.Lock()
        self._holds = Holds(root / HOLDS)
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="blobs")
        with _full_disk(f"cannot make {self._tmp}"):
            _make_directory(self._tmp)
            self._locked = os.open(self._tmp, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._locked)

    @contextlib.contextmanager
    def _names(self) -> Iterator[None]:
        """Inside, no other thread or process gives or removes a name, or takes a hold. Nothing slow
        is done there."""
        with self._lock:
            fcntl.flock(self._locked, fcntl.LOCK_EX)
            try:
                yield
            finally:
                fcntl.flock(self._locked, fcntl.LOCK_UN)

    def _path(self, kind: str, name: str) -> Path:
        """Where the blob is, or would be."""
        for part in (kind, name):
            if len(part) < 2 or not part.isascii() or not part.isalnum():
                raise InternalError(f"{part!r} cannot name a blob")
        return self.root / kind / name[:2] / name

    def put(self, kind: str, name: str, chunks: Iterable[bytes]) -> None:
        self.put_all([Blob(kind, name, tuple(chunks))])

    def put_all(self, blobs: Iterable[Blob]) -> None:
        """They are written and fsynced side by side."""
        writes: list[Future[_Staged]] = []
        staged: list[_Staged] = []
        try:
            for blob in blobs:
                writes.append(self._pool.submit(self._stage, blob))
            staged = _all(writes)
            with self._names(), _full_disk(f"cannot name a file in {self.root}"):
                for one in staged:
                    final = self._path(one.blob.kind, one.blob.name)
                    # Young from now on, however long writing took.
                    os.utime(one.temporary or final)
                    if one.temporary is not None:
                        one.temporary.rename(final)
            # Also for names that were there: another thread may have renamed but not yet synced.
            places = {self._path(one.blob.kind, one.blob.name).parent for one in staged}
            _all([self._pool.submit(self._sync, place) for place in places])
        except BaseException:
            wait(writes)
            for write in writes:
                if write.exception() is None and (temporary := write.result().temporary):
                    temporary.unlink(missing_ok=True)
            raise

    @contextlib.contextmanager
    def draft(self) -> Iterator[LocalDraft]:
        draft = LocalDraft(self._tmp)
        try:
            yield draft
        finally:
            draft.close()
            with contextlib.suppress(OSError):  # absent: it has its name; else `sweep` removes it
                draft.path.unlink()

    def put_stream(self, kind: str, name: str, size: int, chunks: Iterable[bytes]) -> None:
        final = self._path(kind, name)
        if self._refresh(final, size):
            for _ in chunks:
                pass
            return
        with _full_disk(f"cannot write {name} ({size:,} bytes) to {self.root}"):
            _make_directory(final.parent)
            temporary = self._tmp / f"{name}.{secrets.token_hex(8)}"
            try:
                _write_durably(temporary, ((chunk,) for chunk in chunks))
                with self._names():
                    os.utime(temporary)
                    temporary.rename(final)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _sync_directory(final.parent)

    def get(self, kind: str, name: str) -> bytes:
        with self.open(kind, name) as file:
            return file.read()

    def open(self, kind: str, name: str) -> BinaryIO:
        try:
            return self._path(kind, name).open("rb")
        except FileNotFoundError as error:
            raise self._absent(kind, name) from error

    def materialize(self, kind: str, name: str) -> Path:
        path = self._path(kind, name)
        if not path.is_file():
            raise self._absent(kind, name)
        return path

    def size(self, kind: str, name: str) -> int | None:
        try:
            return self._path(kind, name).stat().st_size
        except FileNotFoundError:
            return None

    def exists(self, kind: str, name: str) -> bool:
        return self._path(kind, name).is_file()

    def delete(self, kind: str, name: str) -> None:
        self._path(kind, name).unlink(missing_ok=True)

    def kinds(self) -> list[str]:
        return sorted(path.name for path in self.root.iterdir() if path.name not in (TMP, HOLDS))

    def present(self, kind: str) -> list[Present]:
        found = []
        for path in (self.root / kind).glob("??/*"):
            if not path.name.isalnum():  # no blob: none of ours
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                stat = path.stat()
                found.append(Present(path.name, stat.st_size, stat.st_mtime))
        return found

    @contextlib.contextmanager
    def held(self, kind: str, names: Iterable[str]) -> Iterator[None]:
        wanted = tuple(names)
        with self._names():
            record = self._holds.take(kind, wanted)
        try:
            yield
        finally:
            with self._lock:  # whether another process still sees it makes no difference
                self._holds.release(kind, wanted, record)

    def holds(self) -> list[Hold]:
        with self._names():
            return self._holds.all()

    def is_unused(self, kind: str, name: str, *, before: float) -> bool:
        with self._names():
            return self._is_unused(kind, name, before)

    def _is_unused(self, kind: str, name: str, before: float) -> bool:
        try:
            young = self._path(kind, name).stat().st_mtime >= before
        except FileNotFoundError:
            return False
        return not young and not self._holds.has(kind, name)

    def delete_unused(self, kind: str, name: str, *, before: float) -> bool:
        with self._names(), _full_disk(f"cannot remove {name} from {self.root}"):
            unused = self._is_unused(kind, name, before)
            if unused:
                self.delete(kind, name)
        return unused

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def sweep(self) -> int:
        with self._names():
            self._holds.sweep()
        left = list(self._tmp.iterdir())
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def close(self) -> None:
        with self._names():
            self._holds.close()

    def _absent(self, kind: str, name: str) -> NotFound:
        return NotFound(f"no {name} among the {kind} in {self.root}")

    def _stage(self, blob: Blob) -> _Staged:
        """Bring the bytes to the disk under a temporary name."""
        final = self._path(blob.kind, blob.name)
        with _full_disk(f"cannot write {blob.name} ({blob.size:,} bytes) to {self.root}"):
            if self._refresh(final, blob.size):
                return _Staged(blob, None)
            _make_directory(final.parent)
            if not isinstance(blob.chunks, tuple):
                assert isinstance(blob.chunks, LocalDraft)  # of this store
                blob.chunks.finish()
                return _Staged(blob, blob.chunks.path)
            temporary = self._tmp / f"{blob.name}.{secrets.token_hex(8)}"
            try:
                _write_durably(temporary, _batches(blob.chunks))
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        return _Staged(blob, temporary)

    def _refresh(self, path: Path, size: int) -> bool:
        """Whether the blob is there; it is young then. A file of another size is damaged (names
        are digests): it counts as absent and is replaced."""
        with self._names():
            there = path.is_file() and path.stat().st_size == size
            if there:
                os.utime(path)
        return there

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
                reason, hint="Free space on that file system, then try again. Nothing was lost."
            ) from error
        raise HostError(reason, hint="Check that file system and its permissions.") from error


def _batches(chunks: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    for start in range(0, len(chunks), _CHUNKS_PER_WRITE):
        yield chunks[start : start + _CHUNKS_PER_WRITE]


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


def _write_durably(path: Path, batches: Iterable[tuple[bytes, ...]]) -> None:
    fd = _create(path)
    try:
        for chunks in batches:
            _write_all(fd, chunks)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, chunks: Sequence[bytes]) -> None:
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
