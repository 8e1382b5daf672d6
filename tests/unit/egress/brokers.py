"""A broker in this process, a client of it over a pair of sockets, and answers collected whole."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from torpor.core.egress import MODEL_HOST
from torpor.core.ids import OpId, RunId
from torpor.egress.admission import Admission, DenyAll, Judge, Outgoing, Refusal
from torpor.egress.client import BrokerClient
from torpor.egress.connection import Connection, Stream
from torpor.egress.exchange import Exchanges
from torpor.egress.protocol import DONE, VERDICT
from torpor.egress.server import Broker
from torpor.egress.standin import StandIn
from torpor.egress.upstream import Upstream
from torpor.wire.streams import DATA, END, HEAD, RECORD, REFUSE, RESET, WINDOW, WINDOW_BYTES, Frame

RUN, OP = RunId("run_1"), OpId("model:m#1")


@dataclass
class Collected:
    """All that came on a stream."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    verdict: Mapping[str, Any] = field(default_factory=dict)
    refusal: Mapping[str, Any] = field(default_factory=dict)
    reset: Mapping[str, Any] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)
    done: Mapping[str, Any] = field(default_factory=dict)
    whole: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


class Lenient(DenyAll):
    """Allows everything, to loopback."""

    def __init__(self, **more: Any) -> None:
        self.more = more
        self.outgoing: list[Outgoing] = []

    async def admit(self, outgoing: Outgoing) -> Admission | Refusal:
        self.outgoing.append(outgoing)
        fields = {"headers": outgoing.headers, "target": outgoing.request.target} | self.more
        return Admission({"verdict": "allow"}, ["127.0.0.1"], **fields)


@asynccontextmanager
async def brokered(
    model: Upstream | None = None, judge: Judge | None = None, **more: Any
) -> AsyncIterator[tuple[Broker, BrokerClient]]:
    exchanges = Exchanges(delays_s=(), **more)
    broker = Broker(model or StandIn(), judge or Lenient(), exchanges)

    async def dial() -> Connection:
        near, far = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(broker.connection, far)
        _, connection = await loop.create_unix_connection(Connection, sock=near)
        await connection.greeted()
        return connection

    client = BrokerClient(dial)
    try:
        yield broker, client
    finally:
        await client.close()
        await broker.close()


def request(
    port: int = 80,
    target: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | list[list[str]] | None = None,
    *,
    scheme: str = "http",
    host: str = "upstream.test",
    **more: Any,
) -> dict[str, Any]:
    """As a guest opens it."""
    pairs = headers if isinstance(headers, list) else [list(p) for p in (headers or {}).items()]
    opened = {"scheme": scheme, "host": host, "port": port}
    if scheme != "tcp":
        opened |= {"method": method, "target": target, "headers": pairs}
    return opened | more


def note(found: Collected, frame: Frame) -> None:
    fields = frame.fields
    match frame.kind:
        case _ if frame.kind == HEAD:
            found.status = fields["status"]
            found.pairs = [(name, value) for name, value in fields["headers"]]
            found.headers = dict(found.pairs)
        case _ if frame.kind == DATA:
            found.pieces.append(frame.data)
        case _ if frame.kind == END:
            found.whole = True
        case _ if frame.kind == REFUSE:
            found.refusal, found.status = fields, fields["status"]
        case _ if frame.kind in _FIELDS:
            setattr(found, _FIELDS[frame.kind], fields)


_FIELDS = {VERDICT: "verdict", RESET: "reset", RECORD: "record", DONE: "done"}


async def collect(stream: Stream, into: Collected | None = None) -> Collected:
    """To its end; its windows move."""
    found = into or Collected()
    async for frame in stream:
        note(found, frame)
        if frame.kind == DATA:
            stream.window(frame.offset + len(frame.data) + WINDOW_BYTES)
    return found


async def exchange(
    client: BrokerClient, opened: Mapping[str, Any], body: bytes = b"", *, run: RunId = RUN
) -> Collected:
    """A plain one, whose body goes as its windows let it."""
    stream = await client.open(run, opened)
    return await collect(stream, await upload(stream, body))


async def upload(stream: Stream, body: bytes) -> Collected:
    """Until the body is out, or something else than a window comes."""
    found, sent = Collected(), 0
    async for frame in stream:
        note(found, frame)
        if frame.kind == WINDOW:
            piece = body[sent : frame.offset]
            stream.send(sent, piece)
            sent += len(piece)
            if sent == len(body):
                stream.end(sent)
                break
    return found


async def model_call(
    client: BrokerClient,
    method: str = "POST",
    path: str = "/v1/chat/completions",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    *,
    op: str = OP,
) -> Collected:
    opened = request(80, path, method, headers, host=MODEL_HOST)
    stream, verdict = await client.call(RUN, OpId(op), "model", opened, body)
    return await collect(stream, Collected(verdict=verdict.fields))


async def until(true: Callable[[], bool]) -> None:
    """The loop turns until it is."""
    while not true():  # noqa: ASYNC110 (what becomes true has no event)
        await asyncio.sleep(0)
