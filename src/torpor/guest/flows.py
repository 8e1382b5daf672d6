"""The guest's end of streams: numbers, offsets and windows. No sockets.

connection (`serving`) ──► Stream ──► frames ──► the supervisor, or the host
                       ◄── Listener ◄── frames ◄──
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torpor.core.errors import Invalid
from torpor.wire import streams
from torpor.wire.streams import DATA, HEAD, OPEN, RECORD, REFUSE, RESET, WINDOW, WINDOW_BYTES

# What the supervisor hears of the gateway: a guest's frames, and how an exchange is to be taken.
FROM_GATEWAY = streams.FROM_GUEST | {RECORD}


class Listener:
    """Who gets what comes on a stream."""

    def admitted(self) -> None:
        """There is room, or more of it."""

    def head(self, status: int, headers: list[tuple[str, str]]) -> None: ...

    def data(self, data: bytes) -> None: ...

    def end(self) -> None: ...

    def refused(self, fields: Mapping[str, Any]) -> None:
        """There is no answer but this."""

    def broken(self) -> None:
        """It is over, whatever was under way."""


class Stream:
    """One that is open, as its client sees it. Offsets count what this side has sent, and got."""

    def __init__(self, table: Streams, number: int, listener: Listener) -> None:
        self.listener = listener
        self.number = number
        self.sent = self.received = 0
        self.admitted = False
        self.over = False
        self._table = table
        self._window = 0
        self._granted = WINDOW_BYTES

    @property
    def room(self) -> int:
        return self._window - self.sent

    def send(self, data: bytes) -> None:
        """At most DATA_BYTES, and as many as there is room for."""
        self._table.send(streams.encode_at(DATA, self.number, self.sent, data))
        self.sent += len(data)

    def end(self) -> None:
        """Of what this side sends."""
        self._table.send(streams.encode_at(streams.END, self.number, self.sent))

    def grant(self) -> None:
        """The client keeps up: more may come."""
        wanted = self.received + WINDOW_BYTES
        if not self.over and wanted - self._granted >= WINDOW_BYTES // 2:
            self._granted = wanted
            self._table.send(streams.encode_at(WINDOW, self.number, wanted))

    def drop(self, code: str, message: str) -> None:
        """Nobody is left who would take the rest. Where all has come it is said, too: somebody may
        want to know that it was not taken."""
        if not self.over:
            self.close()
            self._table.send(streams.encode(RESET, self.number, {"code": code, "message": message}))

    def close(self) -> None:
        self.over = True
        self._table.forget(self)

    def admit(self, offset: int) -> None:
        """It may send up to here."""
        self.admitted = True
        self._window = max(self._window, offset)

    def take(self, frame: streams.Frame) -> None:
        kind, listener = frame.kind, self.listener
        if kind == WINDOW:
            self.admit(frame.offset)
            listener.admitted()
        elif kind == HEAD:
            headers = [(name, value) for name, value in frame.fields["headers"]]
            listener.head(frame.fields["status"], headers)
        elif kind == DATA:
            self._data(frame.offset, frame.data)
        elif kind == streams.END:
            listener.end()
        elif kind == REFUSE:
            self.close()
            listener.refused(frame.fields)
        elif kind == RESET:
            self.close()
            listener.broken()

    def _data(self, offset: int, data: bytes) -> None:
        """What has come before is dropped, and what leaves a gap ends the stream."""
        if offset > self.received:
            self.drop("protocol", f"it went on at {offset:,}, after {self.received:,} bytes")
            self.listener.broken()
            return
        fresh = data[self.received - offset :]
        self.received += len(fresh)
        if fresh:
            self.listener.data(fresh)


class Streams:
    """All that are open. Their numbers are not used again."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self.send = send
        self._open: dict[int, Stream] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self,
        listener: Listener,
        fields: Mapping[str, Any],
        record: Mapping[str, Any] | None = None,
    ) -> Stream:
        """`record`: what its RECORD says, if it is to be an operation. That is collected nearby,
        and its body may go at once. Raises Invalid."""
        if self._next > streams.STREAM_MAX:
            raise Invalid("the run has opened as many connections as there are numbers")
        number = self._next
        opening = streams.encode(OPEN, number, fields)
        if record is not None:
            self.send(streams.encode(RECORD, number, record))
        self._next += 1
        stream = self._open[number] = Stream(self, number, listener)
        if record is not None:
            stream.admit(WINDOW_BYTES)
        self.send(opening)
        return stream

    def note(self, code: str, name: str, port: int | None = None) -> None:
        """Something was refused here."""
        fields: dict[str, Any] = {"code": code, "name": name[:1024]}
        self.send(
            streams.encode(streams.NOTE, 0, fields | ({} if port is None else {"port": port}))
        )

    def receive(self, frame: bytes) -> None:
        """Raises Invalid. What is for a stream that is over is dropped."""
        taken = streams.decode(frame, streams.TO_GUEST)
        stream = self._open.get(taken.stream)
        if stream is not None:
            stream.take(taken)

    def forget(self, stream: Stream) -> None:
        self._open.pop(stream.number, None)
