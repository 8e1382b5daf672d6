"""Guests that `torpor bench egress` has instead of machines: their side of streams, as
`torpor.guest.flows` has it in one. `Direct` asks the broker as a worker does; `Logged` has a
worker's part between, which writes to a run's log; `Session` is a client without torpor.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from torpor.core.errors import HostError
from torpor.core.ids import RunId
from torpor.egress.client import BrokerClient
from torpor.machines.channel import Channel
from torpor.wire import streams
from torpor.wire.streams import (
    DATA,
    DATA_BYTES,
    END,
    HEAD,
    OPEN,
    REFUSE,
    RESET,
    WINDOW,
    WINDOW_BYTES,
    Frame,
)
from torpor.worker.network import Network


@dataclass
class Answer:
    status: int = 0
    body: bytes = b""
    first_at: float = 0.0  # when its first bytes came


# One request: path, and a body if it has one.
Ask = Callable[[str, bytes], Awaitable[Answer]]


@dataclass(frozen=True)
class Site:
    host: str
    port: int

    def opened(self, target: str, length: int) -> dict[str, Any]:
        """As a guest opens it."""
        headers = [["host", self.host], ["accept", "*/*"], ["user-agent", "bench"]]
        if length:
            headers.append(["content-length", str(length)])
        method = "POST" if length else "GET"
        where = {"scheme": "https", "host": self.host, "port": self.port}
        return {**where, "method": method, "target": target, "headers": headers}


class _Exchange:
    """One, as its guest sees it: frames in, frames out."""

    def __init__(self, body: bytes, send: Callable[[Frame], None]) -> None:
        self.answer = Answer()
        self.over = False
        self._body, self._send = body, send
        self._sent, self._ended = 0, False
        self._pieces: list[bytes] = []
        self._received, self._granted = 0, WINDOW_BYTES

    def take(self, frame: Frame) -> None:
        """Raises HostError where there is no answer."""
        if frame.kind == DATA:
            self._data(frame)
        elif frame.kind == WINDOW:
            self._upload(frame.offset)
        elif frame.kind == HEAD:
            self.answer.status = frame.fields["status"]
        elif frame.kind in (REFUSE, RESET):
            raise HostError(f"torpor did not let a request through: {frame.fields['message']}")
        elif frame.kind == END:
            self.answer.body = b"".join(self._pieces)
            self.over = True

    def _data(self, frame: Frame) -> None:
        if not self._pieces:
            self.answer.first_at = time.time()
        self._pieces.append(frame.data)
        self._received += len(frame.data)
        wanted = self._received + WINDOW_BYTES
        if wanted - self._granted >= WINDOW_BYTES // 2:
            self._granted = wanted
            self._send(Frame(WINDOW, 0, {}, wanted))

    def _upload(self, until: int) -> None:
        while self._sent < min(until, len(self._body)):
            piece = self._body[self._sent : min(until, self._sent + DATA_BYTES)]
            self._send(Frame(DATA, 0, {}, self._sent, piece))
            self._sent += len(piece)
        if self._sent == len(self._body) and not self._ended:
            self._ended = True
            self._send(Frame(END, 0, {}, self._sent))


class Direct:
    """Guests of one run, whose frames go to the broker at once."""

    def __init__(self, broker: BrokerClient, run: RunId, site: Site) -> None:
        self._broker, self._run, self._site = broker, run, site

    async def ask(self, target: str, body: bytes = b"") -> Answer:
        stream = await self._broker.open(self._run, self._site.opened(target, len(body)))
        exchange = _Exchange(body, stream.forward)
        async for frame in stream:
            exchange.take(frame)
        return exchange.answer


class Logged(Channel):
    """Guests of one run, whose frames a worker takes and notes. `network` is to be set."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.network: Network
        self._site = site
        self._number = 0
        self._streams: dict[int, asyncio.Queue[Frame]] = {}

    def pass_on(self, frame: bytes) -> None:
        taken = streams.decode(frame, streams.TO_GUEST)
        if (queue := self._streams.get(taken.stream)) is not None:
            queue.put_nowait(taken)

    async def ask(self, target: str, body: bytes = b"") -> Answer:
        self._number += 1
        number = self._number
        queue = self._streams[number] = asyncio.Queue()
        exchange = _Exchange(body, lambda f: self.network.take(f._replace(stream=number)))
        self.network.take(Frame(OPEN, number, self._site.opened(target, len(body))))
        while not exchange.over:
            exchange.take(await queue.get())
        del self._streams[number]
        return exchange.answer


class Session:
    """A client of the library that the broker has too, with connections that are kept."""

    def __init__(self, session: aiohttp.ClientSession, base: str, proxy: str | None = None) -> None:
        self._session, self._base, self._proxy = session, base, proxy

    async def ask(self, target: str, body: bytes = b"") -> Answer:
        method = "POST" if body else "GET"
        async with self._session.request(
            method, f"{self._base}{target}", data=body or None, proxy=self._proxy
        ) as response:
            answer = Answer(response.status)
            pieces: list[bytes] = []
            while piece := await response.content.readany():
                if not pieces:
                    answer.first_at = time.time()
                pieces.append(piece)
        answer.body = b"".join(pieces)
        return answer


async def timed_ms(ask: Ask, target: str, times: int, expected: bytes) -> list[float]:
    """One after the other. Raises HostError for an answer that is another."""
    took = []
    for _ in range(times):
        began = time.perf_counter()
        answer = await ask(target, b"")
        took.append(1000 * (time.perf_counter() - began))
        if answer.body != expected:
            raise HostError(f"the answer to {target} is another: {answer.body[:200]!r}")
    return took


def policy(site: Site) -> dict[str, Any]:
    """What the broker is told of a run."""
    rule = {"host": site.host, "port": site.port}
    return {"agent": "bench", "egress": [rule], "budget": {}}
