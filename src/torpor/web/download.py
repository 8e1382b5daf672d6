"""Bytes that an agent made, given to a client so that no browser takes them for a page of ours:
always as an attachment, of the type that they are said to be and no other, without scripts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse

from torpor.core.runfiles import RunFile
from torpor.service.files import Artifact

_RANGE = re.compile(r"bytes=(\d{0,15})-(\d{0,15})")


class Content(NamedTuple):
    """`name`: a path, of which a download has the last part."""

    name: str
    media_type: str
    size: int
    digest: str
    chunks: Iterator[bytes]  # reading blocks

    @classmethod
    def of(cls, artifact: Artifact, chunks: Iterator[bytes]) -> Content:
        name, media_type = artifact["name"], artifact["media_type"]
        return cls(name, media_type, artifact["bytes"], artifact["digest"], chunks)

    @classmethod
    def given(cls, file: RunFile, chunks: Iterator[bytes]) -> Content:
        """A file that a run was given: of no type that a browser would open."""
        return cls(file.path, "application/octet-stream", file.bytes, file.digest, chunks)


def text(name: str, content: str) -> Response:
    """As a file of text."""
    body = content.encode(errors="backslashreplace")
    return Response(body, media_type="text/plain; charset=utf-8", headers=_attachment(name))


async def download(content: Content, requested: Mapping[str, str]) -> Response:
    """The response to a request with these headers: whole, the range that it asks for, or that
    the client has it already. Raises what the first chunk does."""
    tag = f'"{content.digest}"'
    headers = _attachment(content.name.rpartition("/")[2]) | {
        "etag": tag,
        "accept-ranges": "bytes",
        "cache-control": "private, no-cache",
    }
    if tag in [
        each.strip().removeprefix("W/") for each in requested.get("if-none-match", "").split(",")
    ]:
        return Response(status_code=304, headers=headers)
    begin, end, status = 0, content.size, 200
    if requested.get("if-range", tag) == tag and (text := requested.get("range")) is not None:
        found = _range(text, content.size)
        if found is not None:
            begin, end = found
            if begin >= end:
                headers["content-range"] = f"bytes */{content.size}"
                return Response(status_code=416, headers=headers)
            headers["content-range"] = f"bytes {begin}-{end - 1}/{content.size}"
            status = 206
    headers["content-length"] = str(end - begin)
    part = _part(content.chunks, begin, end)
    first = await asyncio.to_thread(next, part, b"")  # what cannot be read is no 200
    return StreamingResponse(_from(first, part), status, headers, content.media_type)


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Where the one range begins and ends; None for what is to be ignored (RFC 9110, 14.2)."""
    match = _RANGE.fullmatch(text.replace(" ", ""))
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    if last and int(last) < int(first):
        return None
    return int(first), min(size, int(last) + 1) if last else size


def _part(chunks: Iterator[bytes], begin: int, end: int) -> Iterator[bytes]:
    """Of all bytes those. The whole is read to its end where that is asked for, since only then its
    digest is known to be right."""
    at = 0
    for chunk in chunks:
        wanted = chunk[max(0, begin - at) : max(0, end - at)]
        at += len(chunk)
        if wanted:
            yield wanted
        elif at >= end and chunk:
            return


def _from(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if first:
        yield first
    yield from rest


def _attachment(name: str) -> dict[str, str]:
    plain = re.sub(r'[^ !#-\[\]-~]|["\\%]', "_", name)
    encoded = quote(name, safe="")
    return {
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}",
        "content-security-policy": "sandbox; default-src 'none'",
        "x-content-type-options": "nosniff",
    }
