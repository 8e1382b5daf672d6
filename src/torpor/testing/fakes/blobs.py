"""A store of blobs in memory, for tests of what stands on one.

It passes the tests that every store passes (`tests/unit/blobs/contract.py`), and nothing else is
promised of it: no durability, no files but those that `materialize` writes.
"""

from __future__ import annotations

import io
import itertools
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from torpor.blobs.protocol import Blob, Hold, Present
from torpor.core.errors import InternalError, NotFound

_owners = itertools.count(1)
_Key = tuple[str, str]


@dataclass
class _Stored:
    data: bytes
    touched_at: float


@dataclass
class Shelf:
    """What several `MemoryBlobs` share, as processes share a store."""

    blobs: dict[_Key, _Stored] = field(default_factory=dict)
    holds: list[Hold] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)


class MemoryDraft:
    """See `torpor.blobs.protocol.Draft`."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, chunks: Sequence[bytes]) -> None:
        for chunk in chunks:
            self.data += chunk


class MemoryBlobs:
    """See `torpor.blobs.protocol.Blobs`."""

    def __init__(self, shelf: Shelf | None = None) -> None:
        self._shelf = shelf or Shelf()
        self._owner = f"memory-{next(_owners)}"
        self._files: tempfile.TemporaryDirectory[str] | None = None

    def put(self, kind: str, name: str, chunks: Iterable[bytes]) -> None:
        self.put_all([Blob(kind, name, tuple(chunks))])

    def put_all(self, blobs: Iterable[Blob]) -> None:
        contents = [(_key(blob.kind, blob.name), _bytes_of(blob)) for blob in blobs]
        with self._shelf.lock:
            for key, data in contents:
                self._shelf.blobs[key] = _Stored(data, time.time())

    def put_stream(self, kind: str, name: str, size: int, chunks: Iterable[bytes]) -> None:
        self.put(kind, name, list(chunks))

    @contextmanager
    def draft(self) -> Iterator[MemoryDraft]:
        yield MemoryDraft()

    def get(self, kind: str, name: str) -> bytes:
        found = self._shelf.blobs.get(_key(kind, name))
        if found is None:
            raise NotFound(f"no {name} among the {kind} in memory")
        return found.data

    def open(self, kind: str, name: str) -> BinaryIO:
        return io.BytesIO(self.get(kind, name))

    def materialize(self, kind: str, name: str) -> Path:
        data = self.get(kind, name)
        if self._files is None:
            self._files = tempfile.TemporaryDirectory()
        path = Path(self._files.name) / kind / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path

    def size(self, kind: str, name: str) -> int | None:
        return len(self.get(kind, name)) if self.exists(kind, name) else None

    def exists(self, kind: str, name: str) -> bool:
        return _key(kind, name) in self._shelf.blobs

    def kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self._shelf.blobs})

    def present(self, kind: str) -> list[Present]:
        with self._shelf.lock:
            return [
                Present(name, len(stored.data), stored.touched_at)
                for (of, name), stored in self._shelf.blobs.items()
                if of == kind
            ]

    def delete(self, kind: str, name: str) -> None:
        self._shelf.blobs.pop(_key(kind, name), None)

    @contextmanager
    def held(self, kind: str, names: Iterable[str]) -> Iterator[None]:
        hold = Hold(self._owner, kind, tuple(names), time.time())
        with self._shelf.lock:
            self._shelf.holds.append(hold)
        try:
            yield
        finally:
            with self._shelf.lock:
                self._shelf.holds = [each for each in self._shelf.holds if each is not hold]

    def holds(self) -> list[Hold]:
        return list(self._shelf.holds)

    def is_unused(self, kind: str, name: str, *, before: float) -> bool:
        with self._shelf.lock:
            found = self._shelf.blobs.get(_key(kind, name))
            held = any(hold.kind == kind and name in hold.names for hold in self._shelf.holds)
            return found is not None and found.touched_at < before and not held

    def delete_unused(self, kind: str, name: str, *, before: float) -> bool:
        with self._shelf.lock:
            unused = self.is_unused(kind, name, before=before)
            if unused:
                self.delete(kind, name)
            return unused

    def free_bytes(self) -> None:
        return None

    def sweep(self) -> int:
        return 0

    def close(self) -> None:
        with self._shelf.lock:
            holds = self._shelf.holds
            self._shelf.holds = [each for each in holds if each.owner != self._owner]


def _key(kind: str, name: str) -> _Key:
    for part in (kind, name):
        if len(part) < 2 or not part.isascii() or not part.isalnum():
            raise InternalError(f"{part!r} cannot name a blob")
    return kind, name


def _bytes_of(blob: Blob) -> bytes:
    if isinstance(blob.chunks, tuple):
        return b"".join(blob.chunks)
    assert isinstance(blob.chunks, MemoryDraft)  # of this store
    return bytes(blob.chunks.data)
