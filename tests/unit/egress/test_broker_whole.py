"""The broker's process with all that decides: rules, the host's file, a secret, TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.egress.brokers import RUN, collect, exchange, request
from tests.unit.egress.upstreams import Authority, Received, upstream

from torpor.core.home import Home
from torpor.core.ids import OpId
from torpor.core.secrets import Terms
from torpor.egress import sealed
from torpor.egress.client import BrokerClient
from torpor.egress.launch import stop_broker
from torpor.snapshot import hostkey

pytestmark = pytest.mark.anyio

VALUES = ("sk-whole-4b1f7a90c2d84e63", "sk-whole-9d02be5517aa4c08")
TERMS = Terms(("upstream.test",), {"header": "X-Key: {}"})


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Home]:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    home = Home(tmp_path / "home").create()
    hostkey.make_host_key(home.host_key)
    yield home
    await stop_broker(home)


def entry(home: Home, value: str) -> dict[str, object]:
    host = hostkey.read_host_key(home.host_key)
    owner = sealed.owner_of("TOKEN", TERMS)
    return sealed.entry("TOKEN", TERMS, hostkey.seal(host, hostkey.SECRET, owner, value.encode()))


async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
    """Careless with keys where it is asked to be."""
    key = received.values("x-key")[0].encode()
    body = key if received.line.startswith("GET /echo") else b"%d characters" % len(key)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))


async def test_a_secret_goes_out_and_nowhere_else(home: Home, tmp_path: Path) -> None:
    authority = Authority()
    tls = authority.serving(tmp_path, "upstream.test")
    async with upstream(echo, tls) as server:
        (home.root / "ca.pem").write_text(authority.pem)
        (home.root / "egress.toml").write_text(
            '[[host]]\nname = "upstream.test"\naddresses = ["127.0.0.1"]\nca = "ca.pem"\n'
        )
        client = BrokerClient.of(home)
        rule = {"host": "upstream.test", "port": server.port, "secret": "TOKEN"}
        await client.set_policy(RUN, {"agent": "a", "egress": [rule]})
        await client.set_secrets([entry(home, VALUES[0])])

        def opened(target: str, **more: str) -> dict[str, object]:
            mine = {"authorization": "Bearer mine", "x-key": "mine", "cookie": "a=b"}
            return request(server.port, target, headers=mine, scheme="https", **more)

        found = await exchange(client, opened("/"))
        assert (found.status, found.body) == (200, b"25 characters")
        assert (found.verdict["secret"], found.done["secret"]) == ("TOKEN", "TOKEN")
        assert server.received[0].values("x-key") == [VALUES[0]]
        assert b"mine" not in server.received[0].head

        leaked = await exchange(client, opened("/echo"))
        assert leaked.reset["code"] == "secret_in_answer"
        stream, _ = await client.call(RUN, OpId("http:x#1"), "http", opened("/echo"), b"")
        recorded = await collect(stream)
        assert recorded.reset["code"] == "secret_in_answer"
        denied = await exchange(client, opened("/", host="elsewhere.test"))
        assert (denied.verdict["verdict"], denied.status) == ("deny", 403)

        await client.set_secrets([entry(home, VALUES[1])])  # without a restart
        assert (await exchange(client, opened("/"))).status == 200
        assert server.received[-1].values("x-key") == [VALUES[1]]
        await client.set_secrets([])
        gone = await exchange(client, opened("/"))
        assert (gone.status, gone.verdict["code"]) == (403, "no_secret")
        assert "TOKEN" in gone.refusal["message"]

        pid = (await client.health())["pid"]
        await client.close()
        seen = repr((found, leaked, recorded, denied, gone)).encode()
        seen += b"".join(
            Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ")
        )
        seen += b"".join(p.read_bytes() for p in home.root.rglob("*") if p.is_file())
        assert all(value.encode() not in seen for value in VALUES)
