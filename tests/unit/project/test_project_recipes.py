"""The recipes of docs/recipes.md, run: with their real clients, against servers of this host that
stand where theirs would. Every request that one makes is judged by its own rules.

Here the clients reach the servers because names are looked up for them; that they do through the
gateway and the broker is for `tests/e2e`.
"""

from __future__ import annotations

import json
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.server import ServerConnection, serve

from torpor.core.egress import Request, judge, parse_egress, parse_request
from torpor.egress.authority import Authority
from torpor.project.reading import read_agent

PAGE = Path(__file__).parents[3] / "docs" / "recipes.md"
RECIPE = re.compile(r"^## (.+?)$(?:(?!^## ).)*?```python\n(.*?)```", re.MULTILINE | re.DOTALL)
RECIPES: dict[str, str] = dict(RECIPE.findall(PAGE.read_text()))

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHOICE = {"index": 0, "finish_reason": None}
WHOLE = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}
MESSAGE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hm."}}
ANTHROPIC = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [{"type": "text", "text": "Hm."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
LIMIT_S = 20


def events(*data: Any) -> bytes:
    return b"".join(f"data: {each}\n\n".encode() for each in data)


PIECES = [{**CHUNK, "choices": [{**CHOICE, "delta": {"content": each}}]} for each in ("H", "m.")]
# What servers answer, by method, host and path.
ANSWERS: dict[tuple[str, str, str], tuple[str, bytes]] = {
    ("POST", "api.openai.com", "/v1/chat/completions"): (
        "text/event-stream",
        events(*map(json.dumps, PIECES), "[DONE]"),
    ),
    ("POST", "api.anthropic.com", "/v1/messages"): ("", json.dumps(ANTHROPIC).encode()),
    ("GET", "api.github.com", "/repos/acme/site/issues"): ("", b"[]"),
    ("POST", "api.github.com", "/repos/acme/site/issues"): ("", b'{"html_url": "https://issue"}'),
    ("GET", "api.internal.example", "/stock/4711"): ("", b'{"left": 3}'),
    ("POST", "slack.com", "/api/chat.postMessage"): ("", b'{"ok": true}'),
    ("POST", "ollama.internal", "/v1/chat/completions"): (
        "",
        json.dumps({**WHOLE, "choices": [MESSAGE]}).encode(),
    ),
    ("GET", "events.example.com", "/builds/17/events"): (
        "text/event-stream",
        events("queued", "done: all green"),
    ),
}


@dataclass
class Web:
    """Servers of this host, and what came to them. `ports`: which stands for (host, port)."""

    ports: dict[tuple[str, int], int] = field(default_factory=dict)
    asked: list[Request] = field(default_factory=list)

    def look_up(
        self, real: Callable[..., Any], host: Any, port: Any, *more: Any, **how: Any
    ) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        found = self.ports.get((name, int(port or 0)))
        if found is None:
            return real(host, port, *more, **how)
        self.looked_up(str(name), int(port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", found))]

    def looked_up(self, host: str, port: int) -> None:
        if port in (5432, 6379):
            self.asked.append(Request("tcp", host, port))


def handler(web: Web, scheme: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            host, _, port = self.headers["host"].partition(":")
            usual = {"https": 443, "http": 80}[scheme]
            request = Request(scheme, host, int(port or usual), self.command, self.path)
            web.asked.append(request)
            path = self.path.partition("?")[0]
            kind, body = ANSWERS[self.command, host, path]
            self.send_response(201 if self.command == "POST" and host == "api.github.com" else 200)
            self.send_header("content-type", kind or "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


class Redis(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while line := self.rfile.readline():
            parts = [
                self.rfile.read(int(self.rfile.readline()[1:]) + 2)[:-2]
                for _ in range(int(line[1:]))
            ]
            self.wfile.write(b":1\r\n" if parts[0].upper() == b"INCRBY" else b"+OK\r\n")


class Postgres(socketserver.StreamRequestHandler):
    """Says 42 to whatever is selected."""

    def handle(self) -> None:
        while (code := struct.unpack(">I", self._startup()[:4])[0]) != 196608:
            assert code in (80877103, 80877104)  # TLS, GSS: neither
            self.wfile.write(b"N")
        self._say(b"R", struct.pack(">I", 0))
        for name, value in ((b"client_encoding", b"UTF8"), (b"server_version", b"17.0")):
            self._say(b"S", name + b"\0" + value + b"\0")
        self._ready()
        while (kind := self.rfile.read(1)) == b"Q":
            query = self._startup()
            if query.lower().startswith(b"select"):
                column = b"count\0" + struct.pack(">IHIhih", 0, 0, 20, 8, -1, 0)
                self._say(b"T", struct.pack(">H", 1) + column)
                self._say(b"D", struct.pack(">HI", 1, 2) + b"42")
            self._say(b"C", query.split()[0].strip(b"\0;") + b"\0")
            self._ready()
        assert kind in (b"X", b"")

    def _startup(self) -> bytes:
        return self.rfile.read(struct.unpack(">I", self.rfile.read(4))[0] - 4)

    def _say(self, kind: bytes, body: bytes) -> None:
        self.wfile.write(kind + struct.pack(">I", len(body) + 4) + body)

    def _ready(self) -> None:
        self._say(b"Z", b"I")


def ticks(web: Web, connection: ServerConnection) -> None:
    assert connection.request is not None
    target = connection.request.path
    web.asked.append(Request("https", "stream.example.com", 443, "GET", target))
    connection.send(f"{connection.recv(decode=True)} 12.30")


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.new()


@pytest.fixture
def web(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    web = Web()
    hosts = {host for _, host, _ in ANSWERS} - {"ollama.internal"}
    leaf = authority.leaf([*sorted(hosts), "stream.example.com"])
    trusted, chain = tmp_path / "ca.pem", tmp_path / "leaf.pem"
    trusted.write_text(authority.certificate)
    chain.write_text(leaf.chain + leaf.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)

    secure = ThreadingHTTPServer(("127.0.0.1", 0), handler(web, "https"))
    secure.socket = context.wrap_socket(secure.socket, server_side=True)
    plain = ThreadingHTTPServer(("127.0.0.1", 0), handler(web, "http"))
    cache = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Redis)
    database = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Postgres)
    stream = serve(partial(ticks, web), "127.0.0.1", 0, ssl=context)
    servers = (secure, plain, cache, database)
    for server in servers:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    threading.Thread(target=stream.serve_forever, daemon=True).start()

    web.ports = {(host, 443): secure.server_address[1] for host in hosts}
    web.ports["stream.example.com", 443] = stream.socket.getsockname()[1]
    web.ports["ollama.internal", 11434] = plain.server_address[1]
    web.ports["cache.example.com", 6379] = cache.server_address[1]
    web.ports["db.example.com", 5432] = database.server_address[1]
    monkeypatch.setattr(socket, "getaddrinfo", partial(web.look_up, socket.getaddrinfo))
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(name, str(trusted))
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(name, "torpor")
    for name in ("OPENAI_BASE_URL", "HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield web
    stream.shutdown()
    for server in servers:
        server.shutdown()
        server.server_close()


def agent_of(code: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    module = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(code, "docs/recipes.md", "exec"), vars(module))
    (name,) = re.findall(r"@torpor\.agent\ndef (\w+)", code)
    agent: Callable[..., Any] = getattr(module, name)
    return agent


# What each returns. Not the two whose clients look names up themselves, or in another process.
RESULTS = {
    "OpenAI": "Hm.",
    "Anthropic": "Hm.",
    "A GitHub issue, with a person's permission": "https://issue",
    "Redis": 1,
    "A private host": 3,
    "Slack": True,
    "A WebSocket": "ACME 12.30",
    "Ollama on the host": "Hm.",
    "Server-sent events": "done: all green",
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_recipe_does_what_it_says_within_its_rules(
    name: str, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent.py").write_text(RECIPES[name])
    rules = parse_egress(list(read_agent(tmp_path / "agent.py").egress), name)
    assert agent_of(RECIPES[name], monkeypatch)() == RESULTS[name]
    verdicts = {request: judge(rules, request) for request in map(frozen, web.asked)}
    assert verdicts
    asked = [request.method for request, found in verdicts.items() if found.decision == "ask"]
    assert asked == (["POST"] if "permission" in name else [])
    assert all(found.decision != "deny" for found in verdicts.values()), verdicts


def frozen(request: Request) -> Request:
    return Request(request.scheme, request.host, request.port, request.method, request.target)


def test_the_database_is_asked_over_its_rule(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "PostgreSQL"
    (tmp_path / "agent.py").write_text(RECIPES[name])
    rules = parse_egress(list(read_agent(tmp_path / "agent.py").egress), name)
    # libpq looks names up itself.
    port = web.ports["db.example.com", 5432]
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(port))
    monkeypatch.setattr("torpor.core.egress.PORTS", {"https": 443, "http": 80})
    monkeypatch.delitem(web.ports, ("db.example.com", 5432))
    monkeypatch.setattr(socket, "getaddrinfo", resolved_to(port))
    assert agent_of(RECIPES[name], monkeypatch)() == 42
    assert judge(rules, Request("tcp", "db.example.com", 5432)).decision == "allow"


def resolved_to(port: int) -> Callable[..., Any]:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
    return lambda *_, **__: found


def test_what_pip_asks_an_index_for_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "Packages from PyPI"
    (tmp_path / "agent.py").write_text(RECIPES[name])
    rules = parse_egress(list(read_agent(tmp_path / "agent.py").egress), name)
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    assert agent_of(RECIPES[name], monkeypatch)() == "humanize"
    assert commands[0][1:4] == ["-m", "pip", "install"]
    files = "https://files.pythonhosted.org/packages/ab/cd/humanize-4.12.0-py3-none-any.whl"
    for url in ("https://pypi.org/simple/humanize/", files, f"{files}.metadata"):
        assert judge(rules, parse_request("GET", url)).decision == "allow"
    assert judge(rules, parse_request("POST", "https://upload.pypi.org/legacy/")).decision == "deny"


def test_every_recipe_is_here() -> None:
    assert RECIPES.keys() == RESULTS.keys() | {"PostgreSQL", "Packages from PyPI"}
