"""Values too large for a log: each a file by its content, sealed as its run's snapshots are.

    in the clear   the content, under its BLAKE3
    sealed         32 bytes of salt; then each CHUNK of the content, sealed, TAG_BYTES longer; under
                   an alias of the content's BLAKE3 that only the key gives

So equal values of a run are stored once, and equal ones of two runs too if both are in the clear.
What is read is compared with the digest by which it was asked for.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from blake3 import blake3
from cryptography.exceptions import InvalidTag

from torpor.blobs.protocol import Blob, Blobs, Draft
from torpor.core.errors import Damaged, NotFound
from torpor.snapshot.seal import SALT_BYTES, TAG_BYTES, Key, new_salt

VALUES = "values"
CHUNK = 1 << 20
_PURPOSE = b"torpor value 1"


class Kept(NamedTuple):
    """A stored value. `digest` is the BLAKE3 of its content, `bytes` the content's size, `name`
    its file's."""

    digest: str
    bytes: int
    name: str


class Swept(NamedTuple):
    """What was removed, or would be; the sizes as in `torpor.snapshot.gc`."""

    values: int
    bytes: int
    young_bytes: int
    kept_bytes: int


def name_of(digest: str, key: Key | None) -> str:
    return digest if key is None else key.alias(digest)


class Incoming:
    """A value that comes in pieces, and is written on its way. Blocks. What could not be written
    is held, and tried again with what comes next: a full disk loses nothing."""

    def __init__(self, scratch: Path, key: Key | None) -> None:
        """`scratch` is a directory on a disk that has room for it."""
        self.bytes = 0
        self._key = key
        self._digest = blake3()
        self._held = bytearray()
        self._parts = 0
        self._scratch = scratch
        self._file: FileIO | None = None
        self._salt = b"" if key is None else new_salt()
        self._sealer = None if key is None else key.sealer(_PURPOSE, self._salt)
        self._size = 0  # of the file, as far as it counts

    def write(self, data: bytes) -> None:
        """Raises OSError; `data` is taken all the same."""
        self.bytes += len(data)
        self._digest.update(data)
        self._held += data
        self.spool()

    def spool(self) -> None:
        """Write what is held, in whole chunks. Raises OSError."""
        while len(self._held) >= CHUNK:
            self._keep(bytes(self._held[:CHUNK]))

    def store(self, blobs: Blobs) -> Kept:
        """All of it is there: store it durably. Raises OSError, Exhausted, HostError."""
        self.spool()
        if self._held:
            self._keep(bytes(self._held))
        file = self._open()
        digest = self._digest.hexdigest()
        file.seek(0)
        chunks = iter(lambda: file.read(CHUNK), b"")
        kept = Kept(digest, self.bytes, name_of(digest, self._key))
        blobs.put_stream(VALUES, kept.name, self._size, chunks)
        return kept

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _open(self) -> FileIO:
        if self._file is None:
            fd, name = tempfile.mkstemp(dir=self._scratch)
            Path(name).unlink()
            self._file = FileIO(fd, "r+b")
        return self._file

    def _keep(self, chunk: bytes) -> None:
        """The chunk is the first of what is held."""
        sealed = chunk if self._sealer is None else self._sealer.seal(self._parts, chunk)
        begin = self._salt if self._parts == 0 else b""
        file = self._open()
        file.seek(self._size)
        rest = memoryview(begin + sealed)
        while rest:
            rest = rest[file.write(rest) :]
        self._size += len(begin) + len(sealed)
        self._parts += 1
        del self._held[: len(chunk)]


class Deposit:
    """A value that comes in pieces, written where it is to be stored; a full disk ends it. Blocks;
    raises Exhausted, HostError."""

    def __init__(self, draft: Draft, key: Key | None) -> None:
        self.bytes = 0
        self._draft, self._key = draft, key
        self._digest = blake3()
        self._held = bytearray()
        self._parts = 0
        self._sealer = None
        if key is not None:
            salt = new_salt()
            self._sealer = key.sealer(_PURPOSE, salt)
            draft.write([salt])

    def write(self, data: bytes) -> None:
        self.bytes += len(data)
        self._digest.update(data)
        self._held += data
        while len(self._held) >= CHUNK:
            self._keep(bytes(self._held[:CHUNK]))
            del self._held[:CHUNK]

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()

    def store(self, blobs: Blobs) -> Kept:
        """All of it is there: it is durable when this returns."""
        # One that is empty and in the clear needs a file, too.
        if self._held or not self._draft.size:
            self._keep(bytes(self._held))
        kept = Kept(self.digest, self.bytes, name_of(self.digest, self._key))
        blobs.put_all([Blob(VALUES, kept.name, self._draft)])
        return kept

    def _keep(self, chunk: bytes) -> None:
        sealer = self._sealer
        self._draft.write([chunk if sealer is None else sealer.seal(self._parts, chunk)])
        self._parts += 1


def read(blobs: Blobs, kept: Kept, key: Key | None) -> Iterator[bytes]:
    """The content, in pieces. Raises Damaged: at its end at the latest."""
    digest, size = blake3(), 0
    try:
        with blobs.open(VALUES, kept.name) as file:
            salt = b"" if key is None else file.read(SALT_BYTES)
            sealer = None if key is None else key.sealer(_PURPOSE, salt)
            step = CHUNK if sealer is None else CHUNK + TAG_BYTES
            for part, chunk in enumerate(iter(lambda: file.read(step), b"")):
                clear = chunk if sealer is None else sealer.open(part, chunk)
                digest.update(clear)
                size += len(clear)
                yield clear
    except (OSError, NotFound, InvalidTag) as error:
        raise Damaged(f"the value {kept.digest} cannot be read: {error!r}") from error
    if (digest.hexdigest(), size) != (kept.digest, kept.bytes):
        raise Damaged(f"the value {kept.digest} is damaged: its bytes do not match its name")


def collect(blobs: Blobs, live: Collection[str], *, before: float, dry_run: bool) -> Swept:
    """Remove what no log names and nobody put since `before` (unix seconds; a value is stored
    before it is named), or only say what that is. Blocks."""
    remove = blobs.is_unused if dry_run else blobs.delete_unused
    present = blobs.present(VALUES)
    dead = [blob for blob in present if blob.name not in live]
    gone = [blob for blob in dead if remove(VALUES, blob.name, before=before)]
    freed, unnamed = (sum(blob.size for blob in some) for some in (gone, dead))
    young = unnamed - freed
    return Swept(len(gone), freed, young, sum(blob.size for blob in present) - unnamed)
