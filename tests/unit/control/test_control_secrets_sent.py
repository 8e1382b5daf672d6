"""A secret from where it is set to where it is sent: the real broker, as a process, and a host with
TLS on the loopback. Its bytes are nowhere but there."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.unit.egress.brokers import Collected, collect, exchange, request, upload

from torpor.control.handing import Handing
from torpor.control.service.secrets import Secrets
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.core.secrets import Author
from torpor.egress.authority import Authority
from torpor.egress.client import BrokerClient
from torpor.egress.launch import stop_broker
from torpor.logstore.sqlite import SqliteStore
from torpor.worker.sealing import SealingKeys

pytestmark = pytest.mark.anyio

ME, HOST, RUN = Author("me"), "api.secrets.example", RunId("run_1")
VALUES = ("first-4d1f0c-value", "second-91bb7e-value", "third-c02d5a-value")


class Upstream(ThreadingHTTPServer):
    """Notes what it is sent. An answer of /slow ends when it is let."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.keys: list[str | None] = []
        self.let, self.begun = threading.Event(), threading.Event()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, Upstream)
        server.keys.append(self.headers.get("authorization"))
        body = (self.headers.get("authorization") or "").encode()
        self.send_response(200)
        if self.path == "/echo":
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_header("content-length", "8")
        self.end_headers()
        self.wfile.write(b"half")
        self.wfile.flush()
        if self.path == "/slow":
            server.begun.set()
            server.let.wait(30)
        self.wfile.write(b"half")

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Upstream]:
    authority = Authority.new()
    leaf = authority.leaf([HOST])
    for name, text in (("ca", authority.certificate), ("chain", leaf.chain), ("key", leaf.key)):
        (tmp_path / f"{name}.pem").write_text(text)
    server = Upstream()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.let.set()
    server.shutdown()
    thread.join()
    server.server_close()


class Stage:
    """A data directory, the secrets of its server, and its broker."""

    def __init__(self, root: Path, upstream: Upstream) -> None:
        self.home = Home(root / "home").create()
        self.home.egress.write_text(
            f'[[host]]\nname = "{HOST}"\naddresses = ["127.0.0.1"]\nca = "{root}/ca.pem"\n'
        )
        self.upstream = upstream
        self.store = SqliteStore.open(self.home.database)
        handing = Handing(self.store)
        keys = SealingKeys(self.home, self.store, on=True)
        self.handing, self.secrets = handing, Secrets(self.store, keys, handing)
        self.client = BrokerClient.of(self.home)

    async def begin(self) -> None:
        await self.handing.begin(self.client)
        rule = {"host": HOST, "port": self.upstream.server_port, "secret": "TOKEN"}
        await self.client.set_policy(RUN, {"agent": "triage", "egress": [rule]})

    def asked(self, target: str) -> dict[str, object]:
        own = {"authorization": "Bearer of-the-agent"}
        port = self.upstream.server_port
        return request(port, target, headers=own, scheme="https", host=HOST)

    async def get(self, target: str = "/") -> Collected:
        return await exchange(self.client, self.asked(target), run=RUN)


@pytest.fixture
async def stage(tmp_path: Path, upstream: Upstream) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, upstream)
    try:
        yield stage
    finally:
        await stage.client.close()
        await stop_broker(stage.home)
        stage.store.close()


async def test_a_rotation_is_for_the_next_request_and_no_byte_of_it_is_anywhere(
    stage: Stage,
) -> None:
    secrets, upstream = stage.secrets, stage.upstream
    await secrets.set("TOKEN", VALUES[0], hosts=[HOST], agents=["triage"], author=ME)
    await stage.begin()
    assert (await stage.get()).body == b"halfhalf"

    # One that is under way ends as it began.
    slow = await stage.client.open(RUN, stage.asked("/slow"))
    await upload(slow, b"")
    assert await asyncio.to_thread(upstream.begun.wait, 30)
    await secrets.rotate("TOKEN", VALUES[1], author=ME)
    assert (await stage.get()).body == b"halfhalf"
    await secrets.remove("TOKEN", author=ME)
    refused = await stage.get()
    assert refused.refusal and refused.verdict["verdict"] == "deny"
    assert "TOKEN" in refused.verdict["reason"]
    upstream.let.set()
    assert (await collect(slow)).body == b"halfhalf"
    assert upstream.keys == [f"Bearer {VALUES[n]}" for n in (0, 0, 1)]

    # One that was set anew is there for a broker that starts.
    await secrets.set("TOKEN", VALUES[2], hosts=[HOST], author=ME)
    await stop_broker(stage.home)
    assert (await stage.get()).body == b"halfhalf"
    assert upstream.keys[-1] == f"Bearer {VALUES[2]}"
    echoed = await stage.get("/echo")
    assert not echoed.whole and VALUES[2].encode() not in echoed.body

    broker = (await stage.client.health())["pid"]
    nowhere([stage.home.root], [os.getpid(), broker])


async def test_it_serves_its_own_agents_and_hosts_alone(stage: Stage) -> None:
    await stage.begin()
    for more in ({"agents": ["other"]}, {"hosts": ["other.example"]}):
        given = {"hosts": [HOST], "agents": ["triage"]} | more
        await stage.secrets.set("TOKEN", VALUES[0], **given, author=ME)  # type: ignore[arg-type]
        refused = await stage.get()
        assert refused.verdict["verdict"] == "deny" and stage.upstream.keys == []


def nowhere(directories: list[Path], processes: list[int]) -> None:
    """No file and no process's arguments or environment has a value."""
    places = [path for each in directories for path in each.rglob("*") if path.is_file()]
    assert {"torpor.db", "torpor.db-wal", "broker.log"} <= {path.name for path in places}
    places += [Path(f"/proc/{pid}/{what}") for pid in processes for what in ("cmdline", "environ")]
    for place in places:
        held = place.read_bytes()
        assert [value for value in VALUES if value.encode() in held] == [], place
