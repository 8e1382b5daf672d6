"""The model endpoint on the loopback: the sockets. What requests mean is `models`' business."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable

from torpor.guest.http1 import CONTINUE, BadRequest, Parser, Request, error_response
from torpor.guest.models import Client

_READ_BYTES = 64 * 1024
CONNECTIONS_MAX = 256

Handle = Callable[[Request, Client], None]


class Gateway:
    """Listens on 127.0.0.1 and serves each connection from the supervisor's loop."""

    def __init__(self, selector: selectors.BaseSelector, port: int, handle: Handle) -> None:
        self._selector = selector
        self._handle = handle
        self._connections: set[_Connection] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def close(self) -> None:
        for each in tuple(self._connections):
            each.close()
        self._selector.unregister(self._listener)
        self._listener.close()

    def _accept(self, mask: int) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            client, _ = self._listener.accept()
            if len(self._connections) >= CONNECTIONS_MAX:
                client.close()
                return
            self._connections.add(
                _Connection(self._selector, client, self._handle, self._connections.discard)
            )


class _Connection:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        client: socket.socket,
        handle: Handle,
        closed: Callable[[_Connection], None],
    ) -> None:
        self._selector = selector
        self._client = client
        self._handle = handle
        self._closed = closed
        self._parser = Parser()
        self._outgoing = bytearray()
        self._path = ""  # of the last request: which API it is that is called here
        self._last = False  # close after what is going out
        self._serving = False  # a request is being answered; further ones stay in the parser
        client.setblocking(False)
        selector.register(client, selectors.EVENT_READ, self._ready)

    def _ready(self, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                self._write()
            if mask & selectors.EVENT_READ:
                data = self._client.recv(_READ_BYTES)
                if not data:
                    self.close()
                else:
                    self._feed(data)
        except BlockingIOError:
            pass
        except OSError:
            self.close()

    def _feed(self, data: bytes) -> None:
        if self._serving:
            if data:  # nobody pipelines to a model; refusing keeps the buffers bounded
                self._refuse(400, "one request at a time")
            return
        if self._last:
            return
        try:
            request = self._parser.feed(data)
        except BadRequest as error:
            self._refuse(error.status, error.message)
            return
        if request is not None:
            self._serving = True
            self._path = request.path
            self._handle(request, _Exchange(self, request.keep_alive))
        elif self._parser.expects_continue:
            self._parser.expects_continue = False
            self._send(CONTINUE)

    @property
    def gone(self) -> bool:
        """Whether the client has closed it, be it just now."""
        try:
            return not self._client.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def answer(self, response: bytes, keep_alive: bool) -> None:
        self._serving = False
        if keep_alive:
            self._send(response)
            self._feed(b"")  # a further request may have come with the last one
        else:
            self._respond_last(response)

    def _refuse(self, status: int, message: str) -> None:
        self._respond_last(error_response(self._path, status, "invalid", message))

    def _respond_last(self, response: bytes) -> None:
        self._last = True
        self._send(response)

    def _send(self, data: bytes) -> None:
        if self._client.fileno() < 0:
            return  # the client has gone; the answer is in the log
        self._outgoing += data
        try:
            self._write()
        except OSError:
            self.close()

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._outgoing:
                del self._outgoing[: self._client.send(self._outgoing)]
        if self._last and not self._outgoing:
            # Closing at once could take the response away from a client that still sends.
            self._client.shutdown(socket.SHUT_WR)
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._outgoing else 0)
        self._selector.modify(self._client, events, self._ready)

    def close(self) -> None:
        if self._client.fileno() >= 0:
            self._selector.unregister(self._client)
            self._client.close()
            self._closed(self)


class _Exchange:
    """See `models.Client`: one request of a connection."""

    def __init__(self, connection: _Connection, keep_alive: bool) -> None:
        self._connection = connection
        self._keep_alive = keep_alive

    def respond(self, whole: bytes) -> None:
        self._connection.answer(whole, self._keep_alive)

    @property
    def gone(self) -> bool:
        return self._connection.gone
