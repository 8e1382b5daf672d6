"""A broker without its process: its server and calls are the real ones, over a pair of sockets;
what answers for the model is played."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from torpor.egress.admission import DenyAll
from torpor.egress.answer import Listener, Seen
from torpor.egress.client import BrokerClient
from torpor.egress.connection import Connection
from torpor.egress.exchange import Exchanges
from torpor.egress.server import Broker
from torpor.egress.upstream import Request


@dataclass(frozen=True)
class Reply:
    """A played model's, whole."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class PlayedUpstream:
    """Answers each request as `answers` does, or in `pieces`; keeps what it was asked."""

    description = "played"

    def __init__(self, answers: Callable[[Request], Awaitable[Reply]]) -> None:
        self.requests: list[Request] = []
        self.given_up: list[Request] = []
        self.gave_up = asyncio.Event()
        self.answers = answers
        self.pieces: Callable[[], AsyncIterator[bytes]] | None = None

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        self.requests.append(request)
        if self.pieces is not None:
            listener.head(200, [("content-type", "text/event-stream")])
            async for piece in self.pieces():
                await listener.data(piece)
            seen.status = 200
            listener.end()
            return
        try:
            reply = await self.answers(request)
        except asyncio.CancelledError:
            self.given_up.append(request)
            self.gave_up.set()
            raise
        seen.status, seen.received = reply.status, len(reply.body)
        listener.head(reply.status, list(reply.headers.items()))
        await listener.data(reply.body)
        listener.end()

    async def close(self) -> None:
        pass


class PlayedBroker:
    """A broker that dies when it is told to; another is there at once."""

    def __init__(self, upstream: PlayedUpstream) -> None:
        self.upstream = upstream
        self.client = BrokerClient(self._dial)
        self._broker = self._next()

    @property
    def calls(self) -> int:
        """How many it has."""
        return len(self._broker.calls)

    async def die(self) -> None:
        """With all that it had; perhaps in the middle of an answer of its own, which ends there."""
        before, self._broker = self._broker, self._next()
        closing = asyncio.ensure_future(before.close())
        # An answer that waits for this is given up by it: it must not give this up in turn.
        await asyncio.wait([closing])
        closing.result()

    async def close(self) -> None:
        await self.client.close()
        await self._broker.close()

    def _next(self) -> Broker:
        return Broker(self.upstream, DenyAll(), Exchanges())

    async def _dial(self) -> Connection:
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._broker.connection, far)
        _, connection = await loop.create_unix_connection(Connection, sock=near)
        await connection.greeted()
        return connection
