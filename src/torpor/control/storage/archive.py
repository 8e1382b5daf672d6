"""Exports as files: a tar whose first member says what the others are.

`pack` gives the bytes as they are read, `Unpacker` takes them as they come: neither has a whole
layer in memory, nor seeks. Every member is named in the header with its size and the BLAKE3 of
its bytes, and compared with both; the header's own BLAKE3 follows it. docs/formats/export.md has it
byte by byte.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

from blake3 import blake3

from torpor.core.errors import Damaged, Invalid

FORMAT, VERSION = "torpor-export", 1
HEADER = "header.json"
HEADER_DIGEST = "header.blake3"
HEADER_BYTES_MAX = 64 << 20
MEMBERS_MAX = 100_000
CHUNK = 1 << 20


@dataclass(frozen=True)
class Member:
    name: str
    size: int
    digest: str  # BLAKE3, hex


@dataclass(frozen=True)
class Source:
    """A member, and where its bytes come from."""

    member: Member
    read: Callable[[], Iterator[bytes]]


def pack(facts: Mapping[str, Any], sources: Sequence[Source]) -> Iterator[bytes]:
    """The export's bytes. Raises Damaged if a source gives other bytes than it says."""
    members = [[s.member.name, s.member.size, s.member.digest] for s in sources]
    head = {"format": FORMAT, "version": VERSION, **facts, "members": members}
    header = json.dumps(head, separators=(",", ":")).encode()
    yield from _entry(HEADER, len(header))
    yield from (header, _padding(len(header)))
    digest = blake3(header).hexdigest().encode()
    yield from _entry(HEADER_DIGEST, len(digest))
    yield from (digest, _padding(len(digest)))
    for source in sources:
        yield from _entry(source.member.name, source.member.size)
        yield from _verified(source.member, source.read())
        yield _padding(source.member.size)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _entry(name: str, size: int) -> Iterator[bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    yield info.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _verified(member: Member, chunks: Iterator[bytes]) -> Iterator[bytes]:
    digest, size = blake3(), 0
    for chunk in chunks:
        digest.update(chunk)
        size += len(chunk)
        yield chunk
    if (size, digest.hexdigest()) != (member.size, member.digest):
        raise Damaged(
            f"{member.name} is damaged: its bytes do not match its name",
            hint="Nothing was imported. Export the run again.",
        )


class Unpacker:
    """Reads an export from a file that is read once, forward. Blocks. Raises Invalid, Damaged."""

    def __init__(self, file: BinaryIO) -> None:
        try:
            self._tar = tarfile.TarFile.open(fileobj=file, mode="r|")
        except tarfile.TarError as error:
            _refuse(f"it is no tar file ({error})", error)

    def header(self) -> dict[str, Any]:
        """What `pack` was given as `facts`; and the members, to be read in their order."""
        info = self._next(HEADER)
        if info.size > HEADER_BYTES_MAX:
            _refuse(f"its header has {info.size:,} bytes")
        data = b"".join(self._chunks(info))
        digest = b"".join(self._chunks(self._next(HEADER_DIGEST)))
        if digest != blake3(data).hexdigest().encode():
            _refuse("its header is damaged")
        try:
            head = json.loads(data)
        except (ValueError, RecursionError) as error:
            _refuse(f"its header is not JSON ({error})", error)
        if not isinstance(head, dict) or head.get("format") != FORMAT:
            _refuse("it does not begin with the header of an export")
        if head.get("version") != VERSION:
            raise Invalid(
                f"the export has version {head.get('version')}; this torpor reads {VERSION}",
                hint="Import it with the version of torpor that wrote it.",
            )
        self.members = _members(head.get("members"))
        return head

    def read(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Each member with its bytes, which must be read before the next is asked for."""
        for member in self.members:
            info = self._next(member.name)
            if info.size != member.size:
                _refuse(f"{member.name} has {info.size} bytes, not {member.size}")
            yield member, _verified(member, self._chunks(info))

    def _next(self, name: str) -> tarfile.TarInfo:
        try:
            info = self._tar.next()
        except (tarfile.TarError, EOFError) as error:
            _refuse(str(error), error)
        if info is None:
            _refuse(f"it ends before {name}")
        if info.name != name or not info.isreg():
            _refuse(f"{info.name!r} stands where {name!r} should be")
        return info

    def _chunks(self, info: tarfile.TarInfo) -> Iterator[bytes]:
        file = self._tar.extractfile(info)
        assert file is not None  # it is a regular file
        try:
            while chunk := file.read(CHUNK):
                yield chunk
        except (tarfile.TarError, EOFError) as error:
            _refuse(f"it ends within {info.name}", error)


def _members(listed: Any) -> list[Member]:
    if not isinstance(listed, list) or len(listed) > MEMBERS_MAX:
        _refuse("its header does not list its members")
    members = []
    for each in listed:
        match each:
            case [str(name), int(size), str(digest)] if size >= 0 and len(digest) == 64:
                members.append(Member(name, size, digest))
            case _:
                _refuse(f"its header lists the member {each!r}")
    return members


def _refuse(what: str, cause: Exception | None = None) -> NoReturn:
    raise Invalid(
        f"this is not a complete export of torpor: {what}",
        hint="Copy the file again, or export the run again.",
    ) from cause


def json_lines(data: bytes, what: str) -> list[dict[str, Any]]:
    """A member of JSON objects, one a line. Raises Invalid."""
    try:
        rows = [json.loads(line) for line in data.splitlines()]
    except (ValueError, RecursionError) as error:
        raise Invalid(f"the export's {what} are not JSON: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise Invalid(f"the export's {what} are not JSON objects")
    return rows
