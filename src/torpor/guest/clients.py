"""The agent's end of a connection: a socket that its client has opened, with TLS or without.

`Client` moves bytes and knows nothing of what they mean; a `Protocol` has that. It reads no more
than the protocol wants, and keeps what the client is slow to take.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

READ_BYTES = 64 * 1024
_HANDSHAKE_BYTES_MAX = 256 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing drops what is queued, and resets


class Served(Protocol):
    """What a client's bytes mean."""

    @property
    def wants(self) -> bool:
        """More may be read."""

    def came(self, data: bytes) -> None: ...

    def client_ended(self) -> None:
        """It sends no more."""

    def drained(self) -> None:
        """All that was sent has gone to the client."""

    def client_gone(self) -> None:
        """The connection is no more; not called for what this side closes."""


class Client:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        connection: socket.socket,
        closed: Callable[[Client], None],
    ) -> None:
        self._selector, self._socket, self._closed = selector, connection, closed
        self._served: Served | None = None
        self._tls: _Tls | None = None
        self._outgoing = bytearray()
        self._ended = False  # the client's side
        self._half = False  # this side's is to end, once all is written
        self._finishing = False  # and what still comes is dropped
        self._shut = False
        self._events = 0
        connection.setblocking(False)
        with contextlib.suppress(OSError):  # an event is to go out at once, however small
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self, served: Served, context: ssl.SSLContext | None = None) -> None:
        """Begin, or go on, with `served`."""
        self._served = served
        if context is not None:
            self._tls = _Tls(context)
        self.watch()

    @property
    def open(self) -> bool:
        return self._socket.fileno() >= 0

    @property
    def finishing(self) -> bool:
        return self._finishing

    @property
    def pending(self) -> int:
        """Bytes that the client has not taken."""
        return len(self._outgoing)

    def look(self) -> None:
        """Take in what has come by now, its end above all."""
        if self.open and self._events & selectors.EVENT_READ:
            self._ready(selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        if not self.open or not data:
            return
        self._outgoing += data if self._tls is None else self._tls.protect(data)
        self._write()

    def finish(self) -> None:
        """This side ends once all is written; what still comes is dropped."""
        self._finishing = True
        self.end_writing()

    def end_writing(self) -> None:
        """This side ends once all is written; the client's may go on."""
        if not self.open:
            return
        if not self._half:
            self._half = True
            if self._tls is not None:
                self._outgoing += self._tls.end()
        self._write()

    def close(self) -> None:
        if self.open:
            if self._events:
                self._selector.unregister(self._socket)
                self._events = 0
            self._socket.close()
            self._closed(self)

    def reset(self) -> None:
        """Close it so that the client cannot take what it got for all."""
        if self.open:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.close()

    def watch(self) -> None:
        """After what the protocol wants may have changed."""
        if not self.open or self._served is None:
            return
        reading = not self._ended and (self._finishing or self._served.wants)
        events = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * bool(self._outgoing)
        if events == self._events:
            return
        if not self._events:
            self._selector.register(self._socket, events, self._ready)
        elif not events:
            self._selector.unregister(self._socket)
        else:
            self._selector.modify(self._socket, events, self._ready)
        self._events = events

    def _ready(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._write()
            if mask & selectors.EVENT_READ and self.open:
                self._read()
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
        self.watch()

    def _read(self) -> None:
        data = self._socket.recv(READ_BYTES)
        served = self._served
        if served is None:
            return
        if not data:
            self._ended = True
            if self._finishing and self._shut:
                self.close()
            else:
                served.client_ended()
            return
        if self._tls is not None:
            fault = self._tls.feed(data)
            self._outgoing += self._tls.outgoing()
            self._write()
            if fault:
                self._lose()
                return
            data = self._tls.plaintext()
            if self._tls.over:
                self._ended = True
        if data and not self._finishing:
            served.came(data)
        if self._ended and self.open and not self._finishing:
            served.client_ended()

    def _write(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            pass
        except OSError:
            self._lose()
            return
        if not self._outgoing:
            self._written()
        self.watch()

    def _written(self) -> None:
        if self._half and not self._shut:
            # Closing at once could take the answer away from a client that still sends.
            self._shut = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        if self._served is not None:
            self._served.drained()
        if self._finishing and self._ended:
            self.close()

    def _lose(self) -> None:
        served, self._served = self._served, None
        self.close()
        if served is not None:
            served.client_gone()


class _Tls:
    """The server's side of TLS, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        import ssl

        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._in, self._out, server_side=True)
        self._wait = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
        self._fault = ssl.SSLError
        self._none_left = (ssl.SSLZeroReturnError, ssl.SSLEOFError)
        self._shaken = False
        self._unsent = bytearray()
        self._handshake_bytes = 0
        self.over = False  # the client has said that nothing more comes

    def feed(self, data: bytes) -> bool:
        """Whether what comes is no TLS that this side takes part in."""
        self._in.write(data)
        if self._shaken:
            return False
        self._handshake_bytes += len(data)
        try:
            self._object.do_handshake()
        except self._wait:
            return self._handshake_bytes > _HANDSHAKE_BYTES_MAX
        except (self._fault, OSError):
            return True
        self._shaken = True
        unsent, self._unsent = bytes(self._unsent), bytearray()
        self._unsent_write(unsent)
        return False

    def outgoing(self) -> bytes:
        return self._out.read()

    def plaintext(self) -> bytes:
        pieces = []
        if self._shaken:
            try:
                while piece := self._object.read(READ_BYTES):
                    pieces.append(piece)
                self.over = True
            except self._wait:
                pass
            except self._none_left:
                self.over = True
            except (self._fault, OSError):
                self.over = True
        return b"".join(pieces)

    def protect(self, data: bytes) -> bytes:
        self._unsent_write(data)
        return self._out.read()

    def _unsent_write(self, data: bytes) -> None:
        if not data:
            return
        if not self._shaken:
            self._unsent += data
            return
        try:
            self._object.write(data)
        except (self._fault, OSError):
            self.over = True

    def end(self) -> bytes:
        if self._shaken:
            with contextlib.suppress(self._fault, OSError):
                self._object.unwrap()
        return self._out.read()
