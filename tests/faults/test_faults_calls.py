"""A streaming answer of a real TLS server, through real broker processes, whose listeners die one
after the other: one request upstream for each recorded call, and the same bytes."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.egress.upstreams import Received, Upstream, upstream
from tests.unit.worker.conftest import STUCK_S, Stand, anyio_backend, stand

from torpor.core.home import Home
from torpor.core.ids import OpId
from torpor.egress.authority import Authority
from torpor.egress.client import BrokerClient
from torpor.egress.launch import stop_broker
from torpor.wire.streams import DATA, RESET
from torpor.worker.calls import BEGUN, DIED

__all__ = ["anyio_backend", "stand"]
pytestmark = pytest.mark.anyio

HOST, OP = "llm.internal.example", "http:x#1"
PIECES = [b"data: %d\n\n" % n for n in range(12)]


class Model:
    """Sends a piece each time that it is let."""

    def __init__(self) -> None:
        self.let: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def respond(self, received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        while (piece := await self.let.get()) is not None:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")


class Way:
    """The way out of one run, to a server that is really there."""

    def __init__(self, stand: Stand, home: Home, model: Model, server: Upstream) -> None:
        self.stand, self.home, self.model, self.server = stand, home, model, server

    async def another_server(self) -> None:
        """Drivers and connections are gone; the next server takes up what was under way."""
        await self.stand.calls.leave(ended=False)
        await self.stand.broker.close()  # type: ignore[attr-defined]
        await self.connect()
        await self.another_machine(left=True)

    async def another_machine(self, *, left: bool = False) -> None:
        stand = self.stand
        if not left:
            await stand.calls.leave(ended=False)
        given = len(stand.guest.body())
        await stand.next_driver()
        stand.calls.take_up([OpId(OP)], [])
        stand.call(OP)
        stand.calls.attach(1, OpId(OP), given)

    async def connect(self) -> None:
        client: Any = BrokerClient.of(self.home)
        self.stand.broker = client
        rule = {"host": HOST, "port": self.server.port, "record": True}
        await client.set_policy(self.stand.run, {"agent": "a", "egress": [rule]})

    async def kill_broker(self) -> None:
        pid = (await self.stand.broker.health())["pid"]  # type: ignore[attr-defined]
        os.kill(pid, signal.SIGKILL)

    async def begin(self) -> None:
        where: dict[str, Any] = {"scheme": "https", "host": HOST, "port": self.server.port}
        await self.stand.begin(OP, **where)

    async def let(self, count: int) -> bytes:
        """So many more pieces come. What the guest has then."""
        body = self.stand.guest.body()
        for piece in PIECES[body.count(b"\n\n") :][:count]:
            self.model.let.put_nowait(piece)
            body += piece
        await self.stand.guest.has(body)
        return body


@pytest.fixture
async def path(stand: Stand, tmp_path: Path) -> AsyncIterator[Way]:
    authority, home = Authority.new(), Home(tmp_path / "home").create()
    leaf = authority.leaf([HOST])
    for name, text in (("ca", authority.certificate), ("chain", leaf.chain), ("key", leaf.key)):
        (tmp_path / f"{name}.pem").write_text(text)
    home.egress.write_text(
        f'[[host]]\nname = "{HOST}"\naddresses = ["127.0.0.1"]\nca = "{tmp_path}/ca.pem"\n'
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    model = Model()
    async with upstream(model.respond, tls) as server:
        path = Way(stand, home, model, server)
        await path.connect()
        await stand.next_driver()
        try:
            yield path
        finally:
            await stand.calls.leave(ended=False)
            await stand.broker.close()  # type: ignore[attr-defined]
            await stop_broker(home)
            model.let.put_nowait(None)


async def test_ten_machines_and_servers_later_it_is_the_same_answer(path: Way) -> None:
    await path.begin()
    await path.let(1)
    for n in range(10):
        await (path.another_server() if n % 3 == 2 else path.another_machine())
        await path.let(1)
    await path.let(1)
    path.model.let.put_nowait(None)
    outcome = await path.stand.outcome(OP)
    assert outcome["value"]["body"].encode() == b"".join(PIECES) == path.stand.guest.body()
    assert len(path.server.received) == 1
    assert RESET not in path.stand.guest.kinds()


async def test_a_broker_that_is_killed_cuts_the_answer_off_and_sends_nothing_again(
    path: Way,
) -> None:
    await path.begin()
    body = await path.let(2)
    await path.kill_broker()
    value = (await path.stand.outcome(OP))["value"]
    assert (value["body"].encode(), value["cut"]) == (body, DIED)
    await path.stand.guest.until(RESET)
    assert len(path.server.received) == 1
    # A client that tries again makes a call of its own, through the broker that is started then.
    path.stand.guest.frames.clear()
    await path.connect()
    await path.stand.next_driver()
    where: dict[str, Any] = {"scheme": "https", "host": HOST, "port": path.server.port}
    await path.stand.begin("http:x#2", 2, **where)
    path.model.let.put_nowait(None)  # for the connection that died
    path.model.let.put_nowait(b"again")
    path.model.let.put_nowait(None)
    async with asyncio.timeout(STUCK_S):
        assert (await path.stand.outcome("http:x#2"))["value"]["body"] == "again"
    assert len(path.server.received) == 2


async def test_a_broker_that_is_killed_with_its_server_leaves_the_call_in_doubt(
    path: Way,
) -> None:
    await path.begin()
    await path.let(2)
    await path.stand.calls.leave(ended=False)
    await path.kill_broker()
    await path.another_server()
    value = (await path.stand.outcome(OP))["value"]
    assert value["status"] == 503 and BEGUN in value["body"]
    assert (await path.stand.guest.until(RESET)).fields["code"] == "cut"
    assert len(path.server.received) == 1
    assert [f for f in path.stand.guest.frames if f.kind == DATA]
