"""What a store of immutable bytes promises.

Names are digests that the caller computed; a store never looks inside. Whatever holds the bytes:

- A name that can be seen is complete.
- When `put`, `put_all` or `put_stream` returns, bytes and name survive a power cut (rule 5 builds
  on this).
- A put that fails leaves nothing behind; a crash leaves at most what `sweep` removes.
- `delete_unused` and a put or a hold of the same name cannot miss each other (rule 12): a put makes
  the name young, one that exists too, and looking at a name and removing it are one step.
- A hold is recorded in the store: it holds against the collection of any process that shares the
  store, and ends with the process that has it, however that ends.

`tests/unit/blobs/contract.py` has a test for each promise, which every implementation passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol


class Draft(Protocol):
    """Bytes that are being written and have no name yet: their digest is known only when all have
    come. Of one thread at a time. What it takes of memory is what `write` is given."""

    @property
    def size(self) -> int: ...

    def write(self, chunks: Sequence[bytes]) -> None:
        """Raises Exhausted on a full disk."""


@dataclass(frozen=True)
class Blob:
    """Bytes to store, in order, under `kind` and `name`: at hand, or in a draft of the store."""

    kind: str
    name: str
    chunks: tuple[bytes, ...] | Draft

    @property
    def size(self) -> int:
        if isinstance(self.chunks, tuple):
            return sum(map(len, self.chunks))
        return self.chunks.size


@dataclass(frozen=True)
class Present:
    """A blob that is there. `touched_at`: when it was last put, in unix seconds."""

    name: str
    size: int
    touched_at: float


@dataclass(frozen=True)
class Hold:
    """Names that an owner, a process, has had kept since then."""

    owner: str
    kind: str
    names: tuple[str, ...]
    since: float


class Blobs(Protocol):
    """Safe to use from many threads, and by many processes at once but for `sweep`. `kind` and
    `name` are letters and digits, at least two of each. Everything raises HostError where the store
    fails, and may block."""

    def put(self, kind: str, name: str, chunks: Iterable[bytes]) -> None:
        """Store one blob durably; nothing happens if the name exists. Raises Exhausted."""

    def put_all(self, blobs: Iterable[Blob]) -> None:
        """Store several blobs durably, at the cost of about one.

        Each is taken as soon as the iterable yields it. Names appear in the order given, and none
        before all bytes are durable, so one that refers to others comes last. Raises Exhausted if
        the store is full; none of the new blobs is there then (unless the trouble was in naming
        the second or a later one).
        """

    def put_stream(self, kind: str, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """Store one blob of `size` bytes durably as its chunks come, never all in memory.

        `chunks` are read to their end also if the name exists; what they raise is raised, and
        nothing is stored then. Raises as `put_all`.
        """

    def draft(self) -> AbstractContextManager[Draft]:
        """Something to write to that a `Blob` can be made of inside. What did not become one is
        gone at the end."""

    def get(self, kind: str, name: str) -> bytes:
        """All bytes of a blob. Raises NotFound."""

    def open(self, kind: str, name: str) -> BinaryIO:
        """A blob, to be read from its beginning. Raises NotFound."""

    def materialize(self, kind: str, name: str) -> Path:
        """A file of this host with the blob's bytes, for what needs one (QEMU, a pager). It is
        only to be read, and there as long as the blob is. Raises NotFound."""

    def size(self, kind: str, name: str) -> int | None:
        """How many bytes a blob has; None if there is none of this name."""

    def exists(self, kind: str, name: str) -> bool: ...

    def kinds(self) -> list[str]:
        """Those of which there may be blobs."""

    def present(self, kind: str) -> list[Present]:
        """All blobs of a kind, in no order."""

    def delete(self, kind: str, name: str) -> None:
        """Remove a blob; nothing happens if it is absent. Readers that opened it read on."""

    def held(self, kind: str, names: Iterable[str]) -> AbstractContextManager[None]:
        """Inside, `delete_unused` leaves these names alone, there or not."""

    def holds(self) -> list[Hold]:
        """The holds of all living processes that share the store."""

    def is_unused(self, kind: str, name: str, *, before: float) -> bool:
        """Whether it is there, was not put since `before`, and is held by nobody."""

    def delete_unused(self, kind: str, name: str, *, before: float) -> bool:
        """Remove the blob if it `is_unused`; whether it was removed."""

    def free_bytes(self) -> int | None:
        """How much more can be stored, about; None where nobody can tell."""

    def sweep(self) -> int:
        """Remove what writers and owners that died left behind; the number of drafts removed. Only
        for a time when nobody writes: a server calls it once, when it starts."""

    def close(self) -> None:
        """End the holds that were taken through this object."""
