"""One stream of a worker's, as the broker serves it: the body that comes, the answer that goes,
each no further than the other side's window."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from torpor.egress import protocol
from torpor.egress.admission import Headers
from torpor.egress.answer import CutOff
from torpor.wire.streams import (
    DATA,
    DATA_BYTES,
    END,
    HEAD,
    MESSAGE_CHARS_MAX,
    RESET,
    WINDOW,
    WINDOW_BYTES,
    Frame,
)

# What a body may have under way while all bodies together have more than ROOM_BYTES.
NARROW_BYTES = 16 * 1024
ROOM_BYTES = 32 * 1024 * 1024


class Fault(Exception):
    """A frame that this stream cannot have."""


class Room:
    """What the bodies of all streams have in memory."""

    def __init__(self) -> None:
        self.bytes = 0

    @property
    def window(self) -> int:
        return WINDOW_BYTES if self.bytes < ROOM_BYTES else NARROW_BYTES


class Wire(Protocol):
    """The connection to the worker."""

    def write(self, framed: bytes) -> None: ...

    async def drain(self) -> None:
        """Until the worker reads again."""
        ...


class Body:
    """The bytes that the worker sends, in order and at most as far as they were granted."""

    def __init__(self, room: Room, grant: Callable[[int], None]) -> None:
        self._room, self._grant = room, grant
        self._pieces: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self.received = 0
        self.granted = 0
        self.ended = False
        self._taken = 0

    def admit(self, window: int | None = None) -> None:
        """The first bytes may come."""
        self.granted = self._room.window if window is None else window
        self._grant(self.granted)

    def feed(self, offset: int, data: bytes) -> None:
        """Raises Fault."""
        if offset > self.received:
            raise Fault(f"bytes at {offset:,}, {self.received:,} were received")
        fresh = data[self.received - offset :]
        if not fresh:
            return
        if self.ended:
            raise Fault("bytes after the end")
        if self.received + len(fresh) > self.granted:
            raise Fault(f"more than {self.granted:,} bytes, which were granted")
        self.received += len(fresh)
        self._room.bytes += len(fresh)
        self._pieces.append(fresh)
        self._arrived.set()

    def end(self, length: int) -> None:
        """Raises Fault."""
        if length != self.received:
            raise Fault(f"the end at {length:,}, {self.received:,} bytes were received")
        self.ended = True
        self._arrived.set()

    async def first(self) -> bool:
        """Whether there is anything, once that is known."""
        await self._wait()
        return bool(self._pieces)

    async def pieces(self) -> AsyncIterator[bytes]:
        while True:
            await self._wait()
            if not self._pieces:
                return
            piece = self._pieces.popleft()
            self._taken += len(piece)
            self._room.bytes -= len(piece)
            yield piece
            window = self._room.window
            # Half of it at a time: a frame for each piece would be as many again.
            if not self.ended and self._taken + window - self.granted >= window // 2:
                self.granted = self._taken + window
                self._grant(self.granted)

    async def whole(self) -> bytes:
        """Once it has ended."""
        while not self.ended:
            self._arrived.clear()
            await self._arrived.wait()
        return b"".join(self._pieces)

    def drop(self) -> None:
        self._room.bytes -= sum(map(len, self._pieces))
        self._pieces.clear()

    async def _wait(self) -> None:
        while not self._pieces and not self.ended:
            self._arrived.clear()
            await self._arrived.wait()


class Served:
    """The stream: a listener of its own answer."""

    def __init__(self, wire: Wire, number: int, room: Room, offset: int = 0) -> None:
        self.number = number
        self.body = Body(room, self._grant)
        self.task: asyncio.Task[None] | None = None
        self.fault = ""  # what the worker sent and this cannot have
        self.over = False  # its last frame has gone
        self._admitted = False
        self._wire = wire
        self._offset = offset  # of the answer, sent so far
        self._until = offset + WINDOW_BYTES
        self._moved = asyncio.Event()

    @property
    def offset(self) -> int:
        return self._offset

    def take(self, frame: Frame) -> None:
        """Of kind WINDOW, DATA or END. Raises Fault."""
        if frame.kind == DATA:
            self.body.feed(frame.offset, frame.data)
        elif frame.kind == END:
            self.body.end(frame.offset)
        else:
            self._until = max(self._until, frame.offset)
            self._moved.set()

    def say(self, kind: int, fields: Mapping[str, Any]) -> None:
        self._admitted |= protocol.admits(kind, fields)
        self.over |= protocol.is_last(kind, admitted=self._admitted)
        self._wire.write(protocol.encode(kind, self.number, fields))

    def head(self, status: int, headers: Headers) -> None:
        self.say(HEAD, {"status": status, "headers": [list(pair) for pair in headers]})

    async def data(self, data: bytes) -> None:
        start = 0
        while start < len(data):
            while self._until <= self._offset:
                self._moved.clear()
                await self._moved.wait()
            piece = data[start : start + min(DATA_BYTES, self._until - self._offset)]
            self._wire.write(protocol.encode_at(DATA, self.number, self._offset, piece))
            self._offset += len(piece)
            start += len(piece)
            await self._wire.drain()

    def end(self) -> None:
        self._wire.write(protocol.encode_at(END, self.number, self._offset))

    def cut(self, cut: CutOff) -> None:
        self.say(RESET, {"code": cut.code, "message": cut.message[:MESSAGE_CHARS_MAX]})

    def _grant(self, offset: int) -> None:
        self._wire.write(protocol.encode_at(WINDOW, self.number, offset))
