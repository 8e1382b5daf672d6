"""The gateway: it accepts the agent's connections, and makes a stream of each exchange.

In a machine it is a process of its own (`gatewayprocess`), without one a thread of the agent's:
listeners, the place that a connection's address stands for, where frames go, and certificates are
given. It knows the rules only to class an exchange. Whether one may go out, the host says.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from torpor.core.egress import HTTPS, MODEL, MODEL_HOST, TCP
from torpor.core.errors import TorporError
from torpor.guest.clients import Client
from torpor.guest.flows import Streams
from torpor.guest.proxied import CONNECTED, Find, Proxied
from torpor.guest.serving import Backend, Bytes, Classify, Http, Site

if TYPE_CHECKING:
    import ssl

    from torpor.guest.certificates import Certificates

CONNECTIONS_MAX = 256
_BACKLOG = 64

# Where a connection to this address and port leads; None: nowhere.
Locate = Callable[[str, int], Site | None]


def only_model(site: Site, head: object) -> dict[str, str] | None:
    """The classes of an agent without rules."""
    return {"kind": MODEL} if site.is_model else None


def model_site(address: str, port: int) -> Site:
    return Site("http", MODEL_HOST, 80)


class Gateway:
    def __init__(
        self,
        selector: selectors.BaseSelector,
        send: Callable[[bytes], None],
        classify: Classify = only_model,
        certificates: Certificates | None = None,
    ) -> None:
        self.streams = Streams(send)
        self._selector = selector
        self._certificates = certificates
        self._backend = Backend(self.streams, classify, self._settle)
        self._listeners: list[socket.socket] = []
        self._clients: dict[Client, Http | Bytes | None] = {}

    def listen(self, listener: socket.socket, locate: Locate) -> None:
        """Serve what connects to it."""

        def accept(mask: int) -> None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection, _ = listener.accept()
                self._accept(connection, locate)

        self._register(listener, accept)

    def listen_as_proxy(self, listener: socket.socket, own: Site, find: Find) -> None:
        """Serve what connects to it and then says where to; what does not say is for `own`."""

        def accept(mask: int) -> None:
            with contextlib.suppress(BlockingIOError, ConnectionError):
                connection, _ = listener.accept()
                if (client := self._take(connection)) is not None:
                    self._serve(client, Proxied(client, self._backend, own, find, self._tunnel))

        self._register(listener, accept)

    def receive(self, frame: bytes) -> None:
        """A frame for one of the streams. Raises Invalid."""
        self.streams.receive(frame)

    def close(self) -> None:
        for client in tuple(self._clients):
            client.close()
        for listener in self._listeners:
            self._selector.unregister(listener)
            listener.close()

    def _register(self, listener: socket.socket, accept: Callable[[int], None]) -> None:
        listener.setblocking(False)
        self._listeners.append(listener)
        self._selector.register(listener, selectors.EVENT_READ, accept)

    def _accept(self, connection: socket.socket, locate: Locate) -> None:
        address, port = connection.getsockname()[:2]
        site = locate(address, port)
        client = self._take(connection)
        if client is None:
            return
        if site is None:
            self.streams.note("address", address, port)
            client.reset()
        else:
            self._begin(client, site)

    def serve(self, connection: socket.socket, site: Site) -> None:
        """A connection that was accepted elsewhere, and leads to `site`."""
        if (client := self._take(connection)) is not None:
            self._begin(client, site)

    def _take(self, connection: socket.socket) -> Client | None:
        if len(self._clients) >= CONNECTIONS_MAX:
            connection.close()
            return None
        client = Client(self._selector, connection, self._forget)
        self._clients[client] = None
        return client

    def _tunnel(self, client: Client, site: Site) -> None:
        self._begin(client, site, CONNECTED)

    def _begin(self, client: Client, site: Site, greeting: bytes = b"") -> None:
        """`greeting` is sent before the client's first byte is read, in the clear."""
        if site.scheme == HTTPS:
            self._secure(client, site, greeting)
        elif site.scheme == TCP:
            client.send(greeting)
            try:
                self._serve(client, Bytes.connect(client, self._backend, site))
            except TorporError:
                client.reset()
        else:
            client.send(greeting)
            self._serve(client, Http(client, self._backend, site))

    def _secure(self, client: Client, site: Site, greeting: bytes) -> None:
        def ready(context: ssl.SSLContext | None) -> None:
            if not client.open:
                return
            if context is None:
                self.streams.note("no_certificate", site.host, site.port)
                client.reset()
                return
            client.send(greeting)
            self._serve(client, Http(client, self._backend, site), context)

        if self._certificates is None:
            ready(None)
        else:
            self._certificates.get(site.host, ready)

    def _serve(
        self, client: Client, served: Http | Bytes, context: ssl.SSLContext | None = None
    ) -> None:
        if client.open:
            self._clients[client] = served
            client.serve(served, context)

    def _settle(self, but: object) -> None:
        for client, served in tuple(self._clients.items()):
            if isinstance(served, Http) and served is not but and served.waiting:
                client.look()

    def _forget(self, client: Client) -> None:
        self._clients.pop(client, None)


def model_environment(port: int) -> dict[str, str]:
    """How clients find the deployment's own model at this port of the loopback. The key is a
    placeholder: no agent has one that is worth anything (rule 9)."""
    return {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1", "OPENAI_API_KEY": "torpor"}


def listener_at(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port), backlog=_BACKLOG)


def loopback(port: int) -> socket.socket:
    """A listener for the agent's clients alone."""
    return listener_at("127.0.0.1", port)
