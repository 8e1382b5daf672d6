"""What agents print beyond what their logs take: a file for each stream of a run, beside the log.

A byte stands in it where it stands in the stream, so that what is written again changes nothing;
what is in the log is a hole. It is kept as it is, not synced, and in no export or backup. Where it
begins is in the log (`output.beside`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from torpor.contextlog.entries import read_page
from torpor.contextlog.output import BESIDE, beside_from, ends
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store

# Of each stream, so much at most lies beside the log; what is printed after that is only counted.
BESIDE_BYTES_MAX = 1 << 30
_CHUNK = 1 << 20
_KINDS, _MANY = ["output", BESIDE], 1000


class Beside:
    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def keep(self, run: RunId, stream: str, offset: int, data: bytes) -> None:
        """Raises OSError."""
        path = self._path(run, stream)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            begin = _begin(fd) if os.fstat(fd).st_size else offset
            data = data[: max(0, begin + BESIDE_BYTES_MAX - offset)]
            while data:
                done = os.pwrite(fd, data, offset)
                data, offset = data[done:], offset + done
        finally:
            os.close(fd)

    def read(self, run: RunId, stream: str, offset: int) -> Iterator[bytes]:
        """What there is from `offset` on. Blocks."""
        path = self._path(run, stream)
        if not path.is_file() or not path.stat().st_size:
            return
        with path.open("rb") as file:
            begin = _begin(file.fileno())
            file.seek(max(offset, begin))
            # What was not kept, as of a run that came without it, is a hole; data begins a block.
            lead = b"\0" if begin > offset else b""
            while chunk := file.read(_CHUNK):
                yield chunk.lstrip(lead) if lead else chunk
                lead = b""

    def piece(self, run: RunId, stream: str, offset: int, size: int) -> bytes:
        """At most `size` bytes at `offset`; none where there are none, or no file. Blocks."""
        try:
            with self._path(run, stream).open("rb") as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            return b""

    def kept(self, run: RunId, stream: str, offset: int = 0) -> int:
        """How many bytes there are from `offset` on. Blocks."""
        path = self._path(run, stream)
        if not path.is_file() or not path.stat().st_size:
            return 0
        with path.open("rb") as file:
            begin = max(offset, _begin(file.fileno()))
            return max(0, os.fstat(file.fileno()).st_size - begin)

    def full(self, run: RunId, stream: str) -> bool:
        """Whether what follows its end was dropped. Blocks."""
        return self.kept(run, stream) >= BESIDE_BYTES_MAX

    def shares(self, c: Connection, run: RunId) -> dict[str, dict[str, int]]:
        """Of each stream, how many bytes were printed, and how many of them are in the log, are
        kept beside it, were dropped (or are not here: no backup or export has them)."""
        begins = beside_from(c, run)
        shares = {}
        for stream, printed in ends(c, run).items():
            logged = min(printed, begins.get(stream, printed))
            kept = min(printed - logged, self.kept(run, stream, logged))
            shares[stream] = {"printed": printed, "logged": logged, "kept": kept}
            shares[stream]["dropped"] = printed - logged - kept
        return shares

    def whole(self, store: Store, run: RunId, stream: str, offset: int = 0) -> Iterator[bytes]:
        """A stream from `offset` on, from the log and from beside it. Blocks. Raises HostError."""
        begins = store.read_here(partial(beside_from, run=run)) if offset else {}
        if stream in begins and begins[stream] <= offset:
            yield from self.read(run, stream, offset)
            return
        after, more = 0, True
        while more:
            page = store.read_here(
                partial(read_page, run=run, after=after, kinds=_KINDS, limit=_MANY)
            )
            for entry in page.entries:
                after, data = entry["seq"], entry["data"]
                if entry["kind"] == BESIDE:
                    yield from self.read(run, stream, data[stream])
                    return
                if data["stream"] == stream:
                    yield data["text"].encode(errors="replace")[max(0, offset - data["offset"]) :]
            more = page.more

    def remove(self, run: RunId) -> None:
        shutil.rmtree(self._directory / run, ignore_errors=True)

    def _path(self, run: RunId, stream: str) -> Path:
        return self._directory / run / stream


def _begin(fd: int) -> int:
    """Where a file that is not empty begins: before that is a hole."""
    return os.lseek(fd, 0, os.SEEK_DATA)
