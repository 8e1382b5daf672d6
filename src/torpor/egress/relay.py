"""Bytes both ways: a connection of a `tcp` rule, or of an HTTP exchange after its 101. The way in
(`hand_on`) is that of all answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Protocol

from aiohttp.client_proto import ResponseHandler

from torpor.egress.admission import Charge, Leak, Redaction
from torpor.egress.answer import CutOff, Listener, Seen

READ_BYTES = 32 * 1024


class Watched(Protocol):
    """What watches the bytes."""

    @property
    def redaction(self) -> Redaction | None: ...

    @property
    def charge(self) -> Charge | None: ...


async def relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    pieces: AsyncIterator[bytes],
    listener: Listener,
    seen: Seen,
    watched: Watched,
) -> None:
    """Until both sides have ended, or either fails. Raises CutOff."""
    try:
        async with asyncio.TaskGroup() as both:
            both.create_task(_out(pieces, writer, seen, watched))
            incoming = partial(reader.read, READ_BYTES)
            both.create_task(hand_on(incoming, listener, seen, watched))
    except BaseExceptionGroup as group:
        raise _cut(group.exceptions[0]) from group
    finally:
        writer.close()


def _cut(error: BaseException) -> BaseException:
    match error:
        case Leak():
            return CutOff("secret_in_answer", f"there was an answer, but {error}")
        case OSError() | asyncio.IncompleteReadError():
            return CutOff(
                "upstream_broken", f"the connection broke: {error or type(error).__name__}"
            )
    return error


async def _out(
    pieces: AsyncIterator[bytes], writer: asyncio.StreamWriter, seen: Seen, watched: Watched
) -> None:
    async for piece in pieces:
        if watched.charge is not None and (refused := watched.charge.sent(piece)):
            raise CutOff("over_budget", refused)
        seen.sent += len(piece)
        writer.write(piece)
        await writer.drain()
    if writer.can_write_eof():
        with contextlib.suppress(OSError):
            writer.write_eof()
    else:  # TLS has no half of an end
        writer.close()


async def hand_on(
    read: Callable[[], Awaitable[bytes]],
    listener: Listener,
    seen: Seen,
    watched: Watched,
    *,
    host: str = "",
    bytes_max: int | None = None,
) -> None:
    """All that came in, to its end, counted and searched. Raises CutOff, Leak."""
    redaction = watched.redaction
    while piece := await read():
        seen.received += len(piece)
        if watched.charge is not None and (refused := watched.charge.received(piece)):
            raise CutOff("over_budget", refused)
        if bytes_max is not None and seen.received > bytes_max:
            problem = f"{host} answered with more than {bytes_max:,} bytes"
            raise CutOff("reply_too_large", problem)
        if redaction is not None:
            piece = redaction.feed(piece)
        if piece:
            await listener.data(piece)
    if redaction is not None and (rest := redaction.close()):
        await listener.data(rest)
    listener.end()


class _Rest:
    """Takes what aiohttp has read beyond the head."""

    def __init__(self) -> None:
        self.data = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.data += data
        return False, b""

    def feed_eof(self) -> None:
        return


def take_over(protocol: ResponseHandler) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The connection of an answer with status 101, from here on."""
    loop, transport = asyncio.get_running_loop(), protocol.transport
    assert transport is not None
    rest: Any = _Rest()
    protocol.read_timeout = None
    protocol.set_parser(rest, rest)
    reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
    stream = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport.set_protocol(stream)
    stream.connection_made(transport)
    transport.resume_reading()
    if rest.data:
        reader.feed_data(rest.data)
    return reader, asyncio.StreamWriter(transport, stream, reader, loop)
