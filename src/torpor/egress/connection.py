"""A connection to the broker: many streams and requests over one socket, in frames (`protocol`)."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torpor.core.errors import HostError, Invalid, Missing
from torpor.egress import protocol
from torpor.egress.protocol import CONTROL, HELLO, REPLY, VERDICT
from torpor.wire.streams import (
    DATA,
    DATA_BYTES,
    END,
    RESET,
    STREAM_MAX,
    WINDOW,
    WINDOW_BYTES,
    Frame,
)

CONNECT_S_MAX = 10

_log = logging.getLogger(__name__)


class Lost(HostError):
    """The broker went away under a stream. `sent`: what was asked for may have been sent; else it
    provably was not, and may be asked for again."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("the broker ended before it had answered", hint="See run/broker.log.")
        self.sent = sent


class Stream:
    """One exchange. Its frames come in order from `next`, until its last; then that gives None.

    A recorded call's window moves as its frames are taken; a plain stream's is the guest's, whose
    WINDOW frames are forwarded."""

    def __init__(self, connection: Connection, number: int, *, recorded: bool) -> None:
        self.number = number
        self.ended = False  # its last frame has come
        self.verdict: Mapping[str, Any] = {}  # once it has come
        self._connection = connection
        self._frames: deque[Frame] = deque()
        self._arrived = asyncio.Event()
        self._admitted = False
        self._left = False  # nobody listens any more
        self._recorded = recorded
        self._window = 0
        # A recorded call goes out with the END of its body; of a plain stream nobody knows.
        self._sent = not recorded

    async def next(self) -> Frame | None:
        """Raises Lost."""
        while not self._frames:
            if self.ended:
                return None
            if self._connection.lost:
                raise Lost(sent=self._sent)
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        if frame.kind == DATA and self._recorded:
            self._move(frame.offset + len(frame.data))
        return frame

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Frame:
        frame = await self.next()
        if frame is None:
            raise StopAsyncIteration
        return frame

    def send(self, offset: int, data: bytes) -> None:
        """Bytes of the body, up to the offset of the last WINDOW that came."""
        for start in range(0, len(data), DATA_BYTES):
            piece = data[start : start + DATA_BYTES]
            self._write(protocol.encode_at(DATA, self.number, offset + start, piece))

    def end(self, offset: int) -> None:
        """Of the body, which has so many bytes."""
        self._sent = True
        self._write(protocol.encode_at(END, self.number, offset))

    def window(self, offset: int) -> None:
        """The broker may send up to here."""
        self._write(protocol.encode_at(WINDOW, self.number, offset))

    def reset(self, code: str, message: str) -> None:
        """The end of it; DONE comes still."""
        self._write(protocol.encode(RESET, self.number, {"code": code, "message": message}))

    def forward(self, frame: Frame) -> None:
        """A guest's WINDOW, DATA, END or RESET."""
        if frame.kind == RESET:
            self._write(protocol.encode(RESET, self.number, frame.fields))
            return
        self._sent |= frame.kind == END
        self._write(protocol.encode_at(frame.kind, self.number, frame.offset, frame.data))

    def leave(self) -> None:
        """Nobody listens any more. A recorded call goes on; all else is reset."""
        self._left = True
        self._frames.clear()
        if not self.ended:
            self.reset("left", "nobody waits for it any more")

    def _move(self, taken: int) -> None:
        """Half a window at a time: a frame for each piece would be as many again."""
        if taken + WINDOW_BYTES - self._window >= WINDOW_BYTES // 2:
            self._window = taken + WINDOW_BYTES
            self.window(self._window)

    def _write(self, framed: bytes) -> None:
        if not self.ended:
            self._connection.write(framed)

    def _take(self, frame: Frame) -> None:
        if frame.kind == VERDICT:
            self.verdict = frame.fields
        self._admitted |= protocol.admits(frame.kind, frame.fields)
        self.ended |= protocol.is_last(frame.kind, admitted=self._admitted)
        if not self._left:
            self._frames.append(frame)
        self._arrived.set()

    def _lose(self) -> None:
        self._arrived.set()


class Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.broker = ""  # its identity
        self.pid = 0
        self.upstream = ""  # what answers for the deployment's own model, for people
        self.lost = False
        self._transport: asyncio.Transport | None = None
        self._reader = protocol.Reader()
        self._streams: dict[int, Stream] = {}
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._numbers, self._ids = itertools.count(1), itertools.count(1)
        self._hello = asyncio.Event()

    @classmethod
    async def open(cls, path: Path) -> Connection:
        """Raises Missing when no broker listens."""
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_unix_connection(cls, str(path))
        except OSError as error:
            raise Missing(f"no broker answers at {path}", hint="`torpor up` starts it.") from error
        await connection.greeted()
        return connection

    async def greeted(self) -> None:
        """Raises Missing when it went away before it said who it is."""
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._hello.wait()
        except TimeoutError:
            self.close()
        if self.lost:
            raise Missing("the broker does not answer", hint="See run/broker.log.")

    def stream(self, kind: int, fields: Mapping[str, Any]) -> Stream:
        """A new one, begun by this frame. Raises Lost, Invalid."""
        if self.lost:
            raise Lost(sent=False)
        number = next(self._numbers)
        if number > STREAM_MAX:  # a new connection has new numbers
            self.close()
            raise Lost(sent=False)
        framed = protocol.encode(kind, number, fields)
        recorded = kind != protocol.BEGIN or "op" in fields
        stream = self._streams[number] = Stream(self, number, recorded=recorded)
        self.write(framed)
        return stream

    async def call(self, do: str, **fields: Any) -> dict[str, Any]:
        """The reply. Raises HostError (the broker went away), Invalid (it refused)."""
        reply = await self.post(do, fields)
        if error := reply.get("error"):
            raise Invalid(str(error), hint=str(reply.get("hint", "")))
        return reply

    def post(self, do: str, fields: Mapping[str, Any]) -> asyncio.Future[dict[str, Any]]:
        """As `call`, for its reply later or never."""
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        number = next(self._ids)
        if self.lost:
            future.set_exception(_gone())
            future.exception()  # whoever posts it may not wait
            return future
        self._replies[number] = future
        self.write(protocol.encode(protocol.CALL, CONTROL, {"id": number, "do": do, **fields}))
        return future

    def write(self, framed: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(framed)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        self._lose()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            for message in self._reader.feed(data):
                self._take(protocol.decode(message, protocol.TO_WORKER))
        except Invalid as error:  # another version's broker
            _log.error("the broker wrote what is no frame: %s", error.message)
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._lose()

    def _take(self, frame: Frame) -> None:
        fields = frame.fields
        if frame.kind == HELLO:
            self.broker, self.pid = fields["broker"], fields["pid"]
            self.upstream = fields["upstream"]
            self._hello.set()
        elif frame.kind == REPLY:
            future = self._replies.pop(fields["id"], None)
            if future is not None and not future.done():
                future.set_result(fields)
        elif (stream := self._streams.get(frame.stream)) is not None:
            stream._take(frame)
            if stream.ended:
                del self._streams[frame.stream]

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self._hello.set()
        for future in self._replies.values():
            if not future.done():
                future.set_exception(_gone())
                future.exception()  # whoever posted it may not wait
        self._replies.clear()
        for stream in self._streams.values():
            stream._lose()
        self._streams.clear()


def _gone() -> HostError:
    return HostError("the broker ended before it had replied", hint="See run/broker.log.")
