"""The server that `torpor bench egress` asks: TLS on loopback, HTTP/1.1, a process of its own.

    python -m torpor.bench.origin CHAIN

CHAIN has its certificates and their key. It prints its port, a line, and serves until its stdin is
closed. What it answers:

    GET /small                   a little JSON
    GET /close                   the same, and the connection is closed
    GET /stream?events=&every_ms=&bytes=&together=
                                 server-sent events as a model's API has them. The first has the
                                 time at which it is sent. After the head it waits until so many
                                 streams stand together. The last event has the digest of all
                                 before it
    POST /upload                 the digest of the body
    POST /v1/chat/completions    some events, as of `/stream`
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from urllib.parse import parse_qsl

MODEL = "/v1/chat/completions"
SMALL = json.dumps({"answer": "x" * 200}).encode()
_HEAD_END = b"\r\n\r\n"
_READ_BYTES = 64 * 1024


@dataclass(frozen=True)
class Streamed:
    """What a `/stream` is to be."""

    events: int = 20
    every_ms: int = 10
    bytes: int = 200  # of the text of an event
    together: int = 1

    @property
    def target(self) -> str:
        fields = vars(self).items()
        return "/stream?" + "&".join(f"{name}={value}" for name, value in fields)


ANSWER = Streamed(events=5, every_ms=100)


def event(text: str) -> bytes:
    """As chat completions are streamed."""
    delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
    return b"data: %s\n\n" % json.dumps(delta).encode()


def text_of(data: bytes) -> str:
    """Of an event."""
    delta = json.loads(data.removeprefix(b"data: "))
    return str(delta["choices"][0]["delta"]["content"])


def is_whole(body: bytes) -> bool:
    """Whether a stream that came is what was sent."""
    before, _, last = body.removesuffix(b"\n\n").rpartition(b"\n\n")
    if not last:
        return False
    return text_of(last) == hashlib.sha256(before + b"\n\n").hexdigest()


class _Server:
    def __init__(self) -> None:
        self._standing = 0
        self._stood = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone = (OSError, asyncio.IncompleteReadError)
        with contextlib.suppress(*gone):
            open_ = True
            while open_:
                head = (await reader.readuntil(_HEAD_END)).decode("latin-1")
                line, *fields = head.split("\r\n")
                method, target, _ = line.split(" ")
                path, _, query = target.partition("?")
                open_ = path != "/close"
                if path == "/stream":
                    given = {name: int(value) for name, value in parse_qsl(query)}
                    await self._stream(writer, Streamed(**given))
                elif path == MODEL:
                    await _digest(reader, fields)
                    await self._stream(writer, ANSWER)
                elif method == "POST":
                    _write(writer, await _digest(reader, fields))
                else:
                    _write(writer, SMALL, "" if open_ else "connection: close\r\n")
                await writer.drain()
        with contextlib.suppress(*gone):
            writer.close()
            await writer.wait_closed()

    async def _stream(self, writer: asyncio.StreamWriter, wanted: Streamed) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        self._standing += 1
        if self._standing >= wanted.together:
            self._stood.set()
        await self._stood.wait()
        digest = hashlib.sha256()
        for number in range(wanted.events):
            if number:
                await asyncio.sleep(wanted.every_ms / 1000)
            text = f"{number} ".ljust(wanted.bytes, "x") if number else f"{time.time():.6f} "
            data = event(text)
            digest.update(data)
            _write_chunk(writer, data)
            await writer.drain()
        _write_chunk(writer, event(digest.hexdigest()))
        _write_chunk(writer, b"")
        self._standing -= 1
        if not self._standing:
            self._stood.clear()


async def _digest(reader: asyncio.StreamReader, fields: list[str]) -> bytes:
    """Of a body, which is not kept."""
    digest = hashlib.sha256()
    async for piece in _pieces(reader, fields):
        digest.update(piece)
    return digest.hexdigest().encode()


async def _pieces(reader: asyncio.StreamReader, fields: list[str]) -> AsyncIterator[bytes]:
    lengths = list(_values(fields, "content-length"))
    if not lengths:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readuntil(b"\r\n")
        return
    left = int(lengths[0])
    while left:
        piece = await reader.read(min(left, _READ_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(piece, left)
        left -= len(piece)
        yield piece


def _values(fields: list[str], name: str) -> Iterator[str]:
    for field in fields:
        key, _, value = field.partition(":")
        if key.lower() == name:
            yield value.strip()


def _write(writer: asyncio.StreamWriter, body: bytes, more: str = "") -> None:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{more}"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))


async def main(chain: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["http/1.1"])
    server = await asyncio.start_server(_Server().serve, "127.0.0.1", 0, ssl=context, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
