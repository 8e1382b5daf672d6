"""Layers: immutable files of pages.

A layer is a zstd file in the *seekable format* (facebook/zstd, contrib/seekable_format): frames
that decompress on their own, each holding `FRAME_PAGES` pages (the last may hold fewer), then a
table of their sizes and checksums in a skippable frame, which plain `zstd -dc` passes over. The
file's name is the BLAKE3 of all its bytes. docs/formats/layer.md has it byte by byte.

A *sealed* layer has the same frames, each sealed with a key (`torpor.snapshot.seal`), and the same
table in the clear but for the checksums: those would tell of the content, and a seal is one. Runs'
layers are sealed; those of templates are not, as all runs of an agent share them.

Frames of 64 KiB were measured: 4 KiB cost 13-18 % in size, 2 MiB cost read amplification.
Every frame is checked against the table when it is read (rule 13); the whole file against its
name only by `SnapshotStore.verify`, as hashing it at each restore would cost more than the
restore. Reads use pread rather than mmap: a disk error is then an exception, not a SIGBUS.
"""

from __future__ import annotations

import itertools
import os
import struct
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash
import zstandard
from blake3 import blake3
from cryptography.exceptions import InvalidTag

from torpor.blobs.protocol import Draft
from torpor.core.errors import Damaged, InternalError
from torpor.snapshot.seal import SALT_BYTES, Key, new_salt
from torpor.snapshot.workers import THREADS, submit

PAGE = 4096
FRAME_PAGES = 16
FRAME = PAGE * FRAME_PAGES

Pages = npt.NDArray[np.uint8]  # shape (n, PAGE), C-contiguous

_SKIPPABLE_MAGIC = 0x184D2A5E
_SEEKABLE_MAGIC = 0x8F92EAB1
_CHECKSUMS = 0x80  # the descriptor's only bit in use: the table has checksums
_HEADER = struct.Struct("<II")  # magic, length of what follows
_FOOTER = struct.Struct("<IBI")  # number of frames, descriptor, magic
_SEALED_ENTRY = np.dtype([("stored", "<u4"), ("length", "<u4")])
_ENTRY = np.dtype([*_SEALED_ENTRY.descr, ("checksum", "<u4")])
_SEALED_MAGIC = b"TORPORL1"
_SEALED_HEAD_BYTES = len(_SEALED_MAGIC) + SALT_BYTES
_PURPOSE = b"torpor layer 1"
_FRAMES_PER_TASK = 4
# Tasks that are under way or done and not yet written: what a layer takes of memory while it is
# made, 256 KiB each.
_TASKS_MAX = 4 * THREADS


class _Codecs(threading.local):
    """zstd contexts, which are costly to make and not to be shared, once a thread."""

    def __init__(self) -> None:
        # A frame's window is never larger than the frame: a damaged header cannot ask for more.
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=FRAME)
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self.compressors:
            self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return self.compressors[level]


_codecs = _Codecs()


@dataclass(frozen=True)
class EncodedLayer:
    """A layer's bytes, ready to be stored under its digest: `chunks`, or all in `draft`."""

    chunks: tuple[bytes, ...]
    digest: str
    pages: int
    draft: Draft | None = None

    @property
    def size(self) -> int:
        return sum(map(len, self.chunks)) if self.draft is None else self.draft.size


def checksum(data: bytes | memoryview) -> int:
    """What the seek table keeps of a frame: the low 32 bits of its XXH64."""
    return xxhash.xxh64_intdigest(data) & 0xFFFFFFFF


_Frame = tuple[bytes, int, int]  # as it is stored, its length decompressed, its checksum


class LayerWriter:
    """Encodes pages as they come, sealed if there is a key, on several threads; page k of all that
    are added is at position k. Their bytes go to `out`, or, without that, stay in memory.

    No more than _TASKS_MAX tasks' pages are held at a time, in either form.
    """

    def __init__(self, *, level: int = 1, key: Key | None = None, out: Draft | None = None) -> None:
        salt = new_salt()
        self._sealer = key.sealer(_PURPOSE, salt) if key else None
        self._level = level
        self._out = out
        self._chunks: list[bytes] = []
        self._digest = blake3()
        self._table: list[tuple[int, int, int]] = []
        self._pages = 0
        self._tasks: deque[Future[list[_Frame]]] = deque()
        if self._sealer:
            self._write([_SEALED_MAGIC + salt])

    def add(self, pages: Pages) -> None:
        """Whole frames of pages, but for the last ones of the layer."""
        if pages.shape[1:] != (PAGE,) or pages.dtype != np.uint8:
            raise InternalError(f"a layer takes pages of {PAGE} bytes only")
        if self._pages % FRAME_PAGES:
            raise InternalError("pages were added to a layer after a frame that was not full")
        task = _FRAMES_PER_TASK * FRAME_PAGES
        if len(pages) <= task and not self._tasks:  # to hand it over would cost more
            self._keep(self._encode(self._pages, pages))
        else:
            for start in range(0, len(pages), task):
                part = pages[start : start + task]
                self._tasks.append(submit(self._encode, self._pages + start, part))
                if len(self._tasks) > _TASKS_MAX:
                    self._keep(self._tasks.popleft().result())
        self._pages += len(pages)

    def finish(self) -> EncodedLayer:
        while self._tasks:
            self._keep(self._tasks.popleft().result())
        entries = np.array(self._table, dtype=_ENTRY)
        if self._sealer is None:
            self._write([_seek_table(entries, _CHECKSUMS)])
        else:
            bare = entries[["stored", "length"]].astype(_SEALED_ENTRY)
            self._write([_seek_table(bare, 0)])
        digest = self._digest.hexdigest()
        return EncodedLayer(tuple(self._chunks), digest, self._pages, self._out)

    def _encode(self, position: int, pages: Pages) -> list[_Frame]:
        compress = _codecs.compressor(self._level).compress
        frames = []
        for start in range(0, len(pages), FRAME_PAGES):
            data = pages[start : start + FRAME_PAGES].data
            stored = compress(data)
            if self._sealer is None:
                frames.append((stored, data.nbytes, checksum(data)))
            else:
                number = (position + start) // FRAME_PAGES
                frames.append((self._sealer.seal(number, stored), data.nbytes, 0))
        return frames

    def _keep(self, frames: list[_Frame]) -> None:
        self._write([stored for stored, _, _ in frames])
        self._table += [(len(stored), length, check) for stored, length, check in frames]

    def _write(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)  # while the other frames are being compressed
        if self._out is None:
            self._chunks += chunks
        else:
            self._out.write(chunks)


def write_layer(pages: Pages, *, level: int = 1, key: Key | None = None) -> EncodedLayer:
    """Encode pages that are at hand as a layer in memory."""
    writer = LayerWriter(level=level, key=key)
    writer.add(pages)
    return writer.finish()


def _seek_table(entries: npt.NDArray[np.void], descriptor: int) -> bytes:
    return b"".join(
        (
            _HEADER.pack(_SKIPPABLE_MAGIC, entries.nbytes + _FOOTER.size),
            entries.tobytes(),
            _FOOTER.pack(len(entries), descriptor, _SEEKABLE_MAGIC),
        )
    )


class _PageFile:
    """An open file of pages, read by position. Safe to use from many threads.

    There is no close: the file is closed when nobody refers to the reader any more. A close
    beside a pread of another thread could read whichever file got the descriptor's number next.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise Damaged(
                f"layer {path} cannot be opened: {error.strerror}",
                hint="Snapshots that need it cannot be restored; restore the file from a copy.",
            ) from error
        weakref.finalize(self, os.close, self._fd)
        self.size = os.fstat(self._fd).st_size

    def _damaged(self, what: str) -> Damaged:
        return Damaged(
            f"layer {self.name} is damaged: {what}",
            hint="Snapshots that need it cannot be restored; restore the file from a copy.",
        )

    def _read(self, offset: int, length: int) -> bytes:
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._damaged(f"bytes at {offset} cannot be read: {error.strerror}") from error
        if len(data) != length:
            raise self._damaged(f"it ends before byte {offset + length}")
        return data


class _FrameFile(_PageFile):
    """Compressed frames from byte `head` on, and the table of them at the end."""

    pages: int
    frames: int

    def __init__(self, path: Path, *, head: int, entry: np.dtype[np.void], descriptor: int) -> None:
        super().__init__(path)
        self._entries = self._table(head, entry, descriptor)
        # Plain ints: single frames are looked up often, and numpy scalars cost more to use.
        self._lengths: list[int] = self._entries["length"].tolist()
        self._stored: list[int] = self._entries["stored"].tolist()
        self._offsets = list(itertools.accumulate(self._stored, initial=head))
        self.frames = len(self._lengths)
        self.pages = sum(self._lengths) // PAGE

    def _read_frame(self, number: int) -> bytes:
        return self._read(self._offsets[number], self._stored[number])

    def _decompress(self, number: int, stored: bytes) -> bytes:
        length = self._lengths[number]
        try:
            # Asked first, because the decompressor allocates what the header says.
            if zstandard.frame_content_size(stored) != length:
                raise self._damaged(f"frame {number} has a wrong length")
            data: bytes = _codecs.decompressor.decompress(stored, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise self._damaged(f"frame {number} does not decompress ({error})") from error
        if len(data) != length:
            raise self._damaged(f"frame {number} is shorter than it says")
        return data

    def _table(self, head: int, entry: np.dtype[np.void], descriptor: int) -> npt.NDArray[np.void]:
        if self.size < head + _HEADER.size + _FOOTER.size:
            raise self._damaged(f"{self.size} bytes are too few")
        footer = self._read(self.size - _FOOTER.size, _FOOTER.size)
        count, *ending = _FOOTER.unpack(footer)
        if ending != [descriptor, _SEEKABLE_MAGIC]:
            raise self._damaged("it does not end in a seek table")
        length = count * entry.itemsize + _FOOTER.size
        start = self.size - length - _HEADER.size
        if start < 0 or self._read(start, _HEADER.size) != _HEADER.pack(_SKIPPABLE_MAGIC, length):
            raise self._damaged("its seek table has no beginning")
        table = np.frombuffer(self._read(start + _HEADER.size, count * entry.itemsize), entry)
        lengths = table["length"]
        if head + table["stored"].sum(dtype=np.int64) != start:
            raise self._damaged("its seek table does not add up to its size")
        if count and (
            (lengths[:-1] != FRAME).any() or not 0 < lengths[-1] <= FRAME or lengths[-1] % PAGE
        ):
            raise self._damaged("its seek table has frames that are no pages")
        return table


class LayerReader(_FrameFile):
    """A layer in a file. Raises Damaged, naming the layer, for whatever is not as written."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, head=0, entry=_ENTRY, descriptor=_CHECKSUMS)
        self._checksums: list[int] = self._entries["checksum"].tolist()

    def frame(self, number: int) -> bytes:
        """The pages of one frame, decompressed and checked: FRAME bytes, fewer for the last."""
        data = self._decompress(number, self._read_frame(number))
        if checksum(data) != self._checksums[number]:
            raise self._damaged(f"frame {number} fails its checksum")
        return data


class SealedReader(_FrameFile):
    """A sealed layer, with the key that it was written with. Raises as `LayerReader`, for another
    key too: that looks like damage. Without one, its pages can only be counted."""

    def __init__(self, path: Path, key: Key | None) -> None:
        super().__init__(path, head=_SEALED_HEAD_BYTES, entry=_SEALED_ENTRY, descriptor=0)
        head = self._read(0, _SEALED_HEAD_BYTES)
        if not head.startswith(_SEALED_MAGIC):
            raise self._damaged(f"it begins with {head[:8]!r}, not {_SEALED_MAGIC!r}")
        self._sealer = key.sealer(_PURPOSE, head[len(_SEALED_MAGIC) :]) if key else None

    def frame(self, number: int) -> bytes:
        if self._sealer is None:
            raise Damaged(
                f"layer {self.name} is sealed, and there is no key for it",
                hint="Its run's key was destroyed, or is kept elsewhere.",
            )
        try:
            stored = self._sealer.open(number, self._read_frame(number))
        except InvalidTag as error:
            raise self._damaged(
                f"frame {number} does not open: it was changed, or its run has another key"
            ) from error
        return self._decompress(number, stored)


class RawReader(_PageFile):
    """An uncompressed, page-aligned file (an image's root file system) read as if it were a
    layer. It has no checksums of its own: whoever installs an image verifies it."""

    pages: int
    frames: int

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        if self.size % PAGE:
            raise self._damaged(f"its {self.size} bytes are not whole pages of {PAGE}")
        self.pages = self.size // PAGE
        self.frames = -(-self.pages // FRAME_PAGES)

    def frame(self, number: int) -> bytes:
        start = number * FRAME
        return self._read(start, min(FRAME, self.size - start))
