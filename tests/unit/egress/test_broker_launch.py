"""The broker as the process that it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
import threading
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.unit.egress.brokers import model_call

from torpor.core.errors import HostError, Missing
from torpor.core.home import Home
from torpor.egress.client import BrokerClient
from torpor.egress.connection import Connection
from torpor.egress.launch import ensure_broker, stop_broker

KEY = "sk-launch-0b7e2f6d41c94a58"


class Echo(BaseHTTPRequestHandler):
    """An upstream that is careless with keys: it gives back all it was sent."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(dict(self.headers)).encode()
        self.send_response(200)
        self.send_header("x-key", self.headers["authorization"])
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    home = Home(tmp_path)
    yield home
    asyncio.run(stop_broker(home))


@pytest.fixture
def echo_url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1"
        server.shutdown()
        thread.join()


def test_the_key_is_nowhere_but_upstream(
    home: Home, echo_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", echo_url)

    async def main() -> str:
        client = BrokerClient.of(home)
        headers = {"authorization": "Bearer torpor"}
        chat = await model_call(client, headers=headers, body=b"{}")
        refused = await model_call(client, "GET", f"/v1/keys/{KEY[:6]}", op="model:k#1")
        health = await client.health()
        await client.close()
        assert (chat.status, refused.status) == (200, 403)
        assert chat.headers["x-key"] == "Bearer [redacted]"  # so it was sent
        return repr((chat, refused, health))

    seen = asyncio.run(main())
    asyncio.run(stop_broker(home))
    kept = [path.read_bytes() for path in home.root.rglob("*") if path.is_file()]
    assert b"POST model.torpor/v1/chat/completions: 200" in b"".join(kept)  # the log is among them
    assert KEY not in seen
    assert all(KEY.encode() not in body for body in kept)


def test_two_that_race_get_one_broker_and_it_stops_when_told(home: Home) -> None:
    async def main() -> int:
        clients = await asyncio.gather(ensure_broker(home), ensure_broker(home))
        pids = [client.pid for client in clients]
        for client in clients:
            client.close()
        assert pids[0] == pids[1]
        assert os.getsid(pids[0]) == pids[0]  # a terminal's Ctrl-C does not reach it
        socket = home.socket("broker")
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        await stop_broker(home)
        assert not socket.exists()
        # One was started, once: nothing is on its way up that could outlive the stop.
        log = (home.run / "broker.log").read_text()
        assert (log.count("serving "), log.count("another broker")) == (1, 0)
        with pytest.raises(Missing):
            await Connection.open(socket)
        return int(pids[0])

    asyncio.run(main())


def test_a_second_process_by_hand_leaves_the_first_alone(home: Home) -> None:
    async def main() -> None:
        client = await ensure_broker(home)
        first = client.pid
        second = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "torpor.egress", "--home", home.root), stderr=PIPE
        )
        _, said = await second.communicate()
        assert (second.returncode, b"another broker serves" in said) == (0, True)
        again = await ensure_broker(home)
        assert again.pid == first
        client.close()
        again.close()

    asyncio.run(main())


def test_a_killed_broker_is_replaced(home: Home) -> None:
    async def main() -> None:
        client = await ensure_broker(home)
        first = client.pid
        os.kill(first, signal.SIGKILL)
        again = await ensure_broker(home)
        assert again.pid != first
        client.close()
        again.close()

    asyncio.run(main())


def test_a_broker_that_cannot_start_says_why(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "gopher://x")
    with pytest.raises(HostError, match="OPENAI_BASE_URL is not an http") as caught:
        asyncio.run(ensure_broker(home))
    assert "broker.log" in caught.value.hint
