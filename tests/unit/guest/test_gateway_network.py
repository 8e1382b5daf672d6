"""Unmodified clients through the gateway: a real supervisor with a network namespace of its own,
where all addresses lead to the gateway, and a host that answers its streams."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.guest.conftest import PATIENCE_S, Driver
from tests.unit.guest.outside import Answer, Exchange, Outside
from tests.unit.guest.servers import (
    ANTHROPIC_EVENTS,
    OPENAI_EVENTS,
    Fake,
    git_backend,
    postgres,
    redis,
    repository,
)
from tests.unit.guest.test_guest_commands import WAITER, Told

from torpor.core.egress import Rule
from torpor.egress.authority import Authority
from torpor.wire import streams

RULES = (
    Rule("api.example.com"),
    Rule("*.wild.example.com"),
    Rule("plain.example.com", port=80, protocol="http"),
    Rule("db.example.com", port=5432, protocol="tcp"),
    Rule("cache.example.com", port=6379, protocol="tcp"),
    Rule("kept.example.com", record="http", secret="KEY"),
    Rule("odd.example.com", port=8443),
    Rule("asked.example.com", ask=True),
)
# The commands' own mounts, so that names are looked up at the gateway.
AROUND = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'


class Machine:
    def __init__(self, directory: Path, source: str = WAITER) -> None:
        resolver = directory / "resolv.conf"
        resolver.write_text("nameserver 127.0.0.1\n")
        unshare = shutil.which("unshare")
        assert unshare is not None
        around = [unshare, "--net", "--mount", "sh", "-c", AROUND, "sh", str(resolver)]
        self.driver = Driver(directory, around=around)
        self.outside = Outside(self.driver, RULES)
        self.authority = Authority.new()
        driver = self.driver
        driver.send_files({"agent.py": source})
        names = sorted({rule.host for rule in RULES if rule.protocol == "https"})
        names.remove("odd.example.com")  # asked for when it is wanted
        trust: dict[str, Any] = {
            "egress": [rule.to_guest() for rule in RULES],
            "placeholders": {"EXAMPLE_API_KEY": "torpor"},
            "authority": self.authority.certificate,
        }
        leaves = [self.authority.leaf(names).to_json()]
        driver.say("load", entry="agent.py", deps=True, version="v", leaves=leaves, **trust)
        driver.hear("loaded")
        driver.certify = self._certify
        driver.start()

    def _certify(self, message: dict[str, Any]) -> None:
        assert message["authority"] == self.authority.fingerprint
        leaf = self.authority.leaf([message["name"]])
        self.driver.say("certified", name=message["name"], chain=leaf.chain, key=leaf.key)

    def run(self, *command: str, **env: str) -> str:
        """What a command beside the agent has written; it must end well."""
        told = Told(self.driver, *command, env=env, window=1 << 20)
        ended = told.end()
        assert ended == {"code": 0}, (ended, told.wrote(2).decode(), self.driver.complaints())
        return told.wrote().decode()

    def python(self, code: str, **env: str) -> Any:
        """What a program prints, as JSON."""
        return json.loads(self.run(sys.executable, "-c", code, **env))


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    made = Machine(tmp_path_factory.mktemp("machine"))
    made.driver.hear("begin", kind="wait")
    yield made
    made.driver.close()


def echo(exchange: Exchange) -> Answer:
    said = {
        "method": exchange.fields["method"],
        "target": exchange.fields["target"],
        "size": len(exchange.body),
    }
    return 200, [("content-type", "application/json")], [json.dumps(said).encode()]


@pytest.fixture(autouse=True)
def _answers(machine: Machine) -> None:
    machine.outside.answer = echo
    machine.outside.notes.clear()


GETS = {
    "urllib": "import urllib.request as u; r = u.urlopen(URL, data=BODY); print(r.read().decode())",
    "requests": "import requests; print(requests.post(URL, data=BODY).text)",
    "httpx": "import httpx; print(httpx.post(URL, content=BODY).text)",
    "httpx, chunked": "import httpx; print(httpx.post(URL, content=iter([BODY])).text)",
    "aiohttp": """
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session, session.post(URL, data=BODY) as response:
        print(await response.text())
asyncio.run(main())
""",
}


@pytest.mark.parametrize("client", GETS)
def test_python_s_clients(machine: Machine, client: str) -> None:
    given = "URL = 'https://api.example.com/a?b=c'; BODY = b'x' * 100"
    said = machine.python(f"{given}\n{GETS[client]}")
    assert said == {"method": "POST", "target": "/a?b=c", "size": 100}


def test_a_body_streams_both_ways_within_the_windows(machine: Machine) -> None:
    size = 3_000_000
    machine.outside.answer = lambda exchange: (200, [], [exchange.body, b"!"])
    said = machine.python(f"""
import requests, hashlib, json
body = bytes(range(256)) * ({size} // 256)
answer = requests.put("https://api.example.com/", data=body).content
print(json.dumps(answer == body + b"!"))
""")
    assert said is True


def test_events_come_as_they_are_sent(machine: Machine) -> None:
    """The second is sent when the client has had the first."""
    outside, driver = machine.outside, machine.driver
    told = Told(
        driver,
        sys.executable,
        "-u",
        "-c",
        """
import httpx
with httpx.stream("GET", "https://api.example.com/events") as response:
    for line in response.iter_lines():
        print(line)
""",
    )

    def events(exchange: Exchange) -> Answer:
        def pieces() -> Iterator[bytes]:
            yield b"data: 1\n\n"
            told.sees(b"data: 1")
            yield b"data: 2\n\n"

        return 200, [("content-type", "text/event-stream")], pieces()

    outside.answer = events
    assert told.end() == {"code": 0}
    assert b"data: 2" in told.wrote()


@pytest.mark.parametrize(
    ("events", "code"),
    [
        (
            OPENAI_EVENTS,
            """
import json, openai
client = openai.OpenAI(base_url="https://api.example.com/v1", api_key="torpor")
parts = client.chat.completions.create(model="m", messages=[], stream=True)
print(json.dumps("".join(p.choices[0].delta.content for p in parts)))
""",
        ),
        (
            ANTHROPIC_EVENTS,
            """
import json, anthropic
client = anthropic.Anthropic(base_url="https://api.example.com", api_key="torpor")
asked = [{"role": "user", "content": "?"}]
with client.messages.stream(model="m", max_tokens=9, messages=asked) as stream:
    print(json.dumps("".join(stream.text_stream)))
""",
        ),
    ],
    ids=["openai", "anthropic"],
)
def test_models_clients_stream(machine: Machine, events: bytes, code: str) -> None:
    kind = [("content-type", "text/event-stream")]
    machine.outside.answer = lambda exchange: (200, kind, [events[:50], events[50:]])
    assert machine.python(code) == "one two"


def test_curl_and_node_and_placeholders(machine: Machine) -> None:
    said = machine.run("curl", "-sS", "-X", "POST", "https://api.example.com/curl")
    assert json.loads(said)["method"] == "POST"
    head = machine.run("curl", "-sS", "-I", "https://api.example.com/")
    assert "200 OK" in head
    large = machine.run(
        *("sh", "-c", "head -c 200000 /dev/zero | curl -sS -T - https://api.example.com/up")
    )
    assert json.loads(large)["size"] == 200_000
    code = "fetch('https://api.example.com/node').then(r => r.text()).then(console.log)"
    assert json.loads(machine.run("node", "-e", code))["target"] == "/node"
    assert machine.run("sh", "-c", "echo $EXAMPLE_API_KEY") == "torpor\n"


def test_git_clones_over_https(machine: Machine, tmp_path: Path) -> None:
    repository(tmp_path)

    def backend(exchange: Exchange) -> Answer:
        fields = exchange.fields
        asked = (fields["method"], fields["target"], exchange.header, exchange.body)
        status, headers, body = git_backend(tmp_path, *asked)
        return status, headers, [body]

    machine.outside.answer = backend
    target = tmp_path / "clone"
    machine.run("git", "clone", "-q", "https://api.example.com/source/.git", str(target))
    assert (target / "file").read_text() == "hello\n" * 10_000


def test_websockets(machine: Machine) -> None:
    from websockets.sync.server import ServerConnection, serve

    def handler(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(handler, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        machine.outside.connect = lambda _: socket.create_connection(server.socket.getsockname())
        said = machine.python("""
import json
from websockets.sync.client import connect
with connect("wss://api.example.com/socket") as connection:
    sizes = []
    for size in (3, 70_000, 300_000):
        connection.send("x" * size)
        sizes.append(len(connection.recv()))
print(json.dumps(sizes))
""")
        server.shutdown()
    assert said == [3, 70_000, 300_000]


def test_tcp_rules_carry_databases(machine: Machine) -> None:
    machine.outside.connect = Fake(postgres).connect
    said = machine.run("psql", "-h", "db.example.com", "-U", "a", "-tAc", "select 42", "a")
    assert said == "42\n"
    assert machine.outside.of("db.example.com")[-1].fields["port"] == 5432
    machine.outside.connect = Fake(redis).connect
    said = machine.python("""
import json, redis
client = redis.Redis("cache.example.com", protocol=2, decode_responses=True)
print(json.dumps([client.set("k", "v"), client.get("k")]))
""")
    assert said == [True, "value"]


def test_psycopg_and_asyncpg_connect(machine: Machine) -> None:
    machine.outside.connect = Fake(postgres).connect
    assert machine.python("""
import asyncio, asyncpg, json, psycopg
from psycopg import ClientCursor
with psycopg.connect("host=db.example.com user=a dbname=a", autocommit=True) as connection:
    found = ClientCursor(connection).execute("select 42").fetchone()
async def main():
    connection = await asyncpg.connect("postgresql://a@db.example.com/a")
    await connection.execute("select 42")
    connection.terminate()
asyncio.run(main())
print(json.dumps(found))
""") == [42]


def test_a_connection_is_kept_and_requests_are_answered_in_order(machine: Machine) -> None:
    said = machine.python("""
import http.client, json, socket, ssl
connection = http.client.HTTPSConnection("api.example.com")
targets = []
for n in range(3):
    connection.request("GET", f"/{n}")
    targets.append(json.loads(connection.getresponse().read())["target"])
port = connection.sock.getsockname()[1]
# Pipelined: two at once, answered one after the other.
raw = ssl.create_default_context().wrap_socket(
    socket.create_connection(("api.example.com", 443)), server_hostname="api.example.com")
ask = b"GET /%d HTTP/1.1\\r\\nHost: api.example.com\\r\\n%b\\r\\n"
raw.sendall(ask % (4, b"") + ask % (5, b"Connection: close\\r\\n"))
text = raw.makefile("rb").read().decode()
print(json.dumps([*targets, text.index('"/4"') < text.index('"/5"')]))
""")
    assert said == ["/0", "/1", "/2", True]


def test_a_recorded_exchange_is_an_operation(machine: Machine) -> None:
    driver = machine.driver
    value = {"status": 200, "headers": {"content-type": "text/plain"}, "body": "recorded"}
    driver.answer = lambda begin: value if begin["kind"] == "http" else ...
    request = ("-u", "ana:mine", "-d", "hi", "https://kept.example.com/x?access_token=mine&y=z")
    said = machine.run("curl", "-sS", *request)
    assert said == "recorded"
    begin = driver.said("begin", kind="http")[-1]
    assert begin["name"].startswith("kept.example.com/x@")
    data = begin["data"]
    assert (data["scheme"], data["host"], data["port"], data["path"], data["body"]) == (
        *("https", "kept.example.com", 443, "/x?y=z"),
        "hi",
    )
    assert begin["stream"] > 0
    assert "mine" not in json.dumps(data) and "authorization" not in data["headers"]


def test_a_leaf_is_asked_for_when_a_name_first_needs_one(machine: Machine) -> None:
    said = machine.run("curl", "-sS", "https://odd.example.com:8443/x")
    assert json.loads(said)["target"] == "/x"
    assert machine.run("curl", "-sS", "https://a.wild.example.com/y")
    assert [each["name"] for each in machine.driver.said("certificate")] == ["odd.example.com"]


# Attempts of the design, by number.

RAW = """
import json, socket, ssl
def ask(request, host="api.example.com", sni="api.example.com", port=443):
    context = ssl.create_default_context()
    context.check_hostname = False
    try:
        with socket.create_connection((host, port), timeout=20) as raw:
            if sni:
                raw = context.wrap_socket(raw, server_hostname=sni)
            raw.sendall(request)
            return raw.makefile("rb").readline().decode().strip()
    except OSError as error:
        return type(error).__name__
def get(target="/", host="api.example.com", more=b""):
    return f"GET {target} HTTP/1.1\\r\\nHost: {host}\\r\\n".encode() + more + b"\\r\\n"
"""


def attempt(machine: Machine, code: str) -> Any:
    return machine.python(f"{RAW}\n{code}")


def test_1_and_2_an_unlisted_name_does_not_exist(machine: Machine) -> None:
    found = attempt(
        machine,
        """
names = ["evil.com", "api.example.com.evil.com", "evilapi.example.com", "wild.example.com",
         "a.b.wild.example.com", "evil.com\\\\000.api.example.com"]
def look(name):
    try:
        return socket.getaddrinfo(name, 443)[0][4][0]
    except (OSError, UnicodeError, ValueError) as error:
        return "none"
print(json.dumps([look(name) for name in names]))
""",
    )
    assert set(found) == {"none"}
    noted = {name for code, name, _ in machine.outside.notes if code == "unknown_name"}
    assert {"evil.com", "api.example.com.evil.com", "evilapi.example.com"} <= noted


def test_5_and_6_host_sni_and_target_must_be_the_address_s(machine: Machine) -> None:
    before = len(machine.outside.exchanges)
    found = attempt(
        machine,
        """
print(json.dumps([
    ask(get(), sni="a.wild.example.com"),
    ask(get(host="a.wild.example.com")),
    ask(get(host="api.example.com:8443")),
    ask(get("https://a.wild.example.com/")),
    ask(get("http://api.example.com/")),
    ask(get("https://api.example.com@evil.com/")),
    ask(b"CONNECT evil.com:443 HTTP/1.1\\r\\nHost: evil.com:443\\r\\n\\r\\n"),
]))
""",
    )
    assert found[0] == "SSLError"
    assert [each[:12] for each in found[1:6]] == ["HTTP/1.1 421"] * 5
    assert found[6].startswith("HTTP/1.1 400")
    assert len(machine.outside.exchanges) == before
    assert ("misdirected", "a.wild.example.com", None) in machine.outside.notes


def test_7_and_8_another_port_and_plain_http_are_refused_in_words(machine: Machine) -> None:
    found = attempt(
        machine,
        """
print(json.dumps([
    ask(get(), port=8443),
    ask(get(), sni="", port=80),
    ask(get(host="plain.example.com"), host="plain.example.com", sni="", port=80),
]))
""",
    )
    assert found[0] == "ConnectionRefusedError"
    assert found[1].startswith("HTTP/1.1 403")
    assert found[2].startswith("HTTP/1.1 200")


def test_7_and_18_what_the_kernel_refuses_is_noted_once(machine: Machine) -> None:
    """But not at a port of the agent's own, where nothing is refused, nor on the loopback itself,
    nor what the gateway resets."""
    found = attempt(
        machine,
        """
own = socket.create_server(("", 2222))
socket.create_connection(("api.example.com", 2222)).close()
places = [("127.0.0.1", 23), ("93.184.216.34", 443), ("db.example.com", 22), ("db.example.com", 22),
          ("api.example.com", 22), ("93.184.216.34", 5432)]
print(json.dumps([ask(b"x", host=host, sni="", port=port) for host, port in places]))
""",
    )
    refused, reset = "ConnectionRefusedError", "ConnectionResetError"
    assert found == [refused, reset, refused, refused, refused, refused]
    notes, last = machine.outside.notes, ("address", "93.184.216.34", 5432)
    machine.driver.until(lambda: last in notes)
    assert Counter(notes) == Counter(
        [
            ("address", "93.184.216.34", 443),
            ("unknown_port", "db.example.com", 22),
            ("unknown_port", "api.example.com", 22),
            last,
        ]
    )


def test_14_and_15_what_parsers_differ_on_is_refused(machine: Machine) -> None:
    before = len(machine.outside.exchanges)
    found = attempt(
        machine,
        """
bad = [b"Content-Length: 1\\r\\nContent-Length: 2\\r\\n",
       b"Content-Length: 1\\r\\nTransfer-Encoding: chunked\\r\\n",
       b"Transfer-Encoding: xchunked\\r\\n", b"A : b\\r\\n", b"A: b\\rX: c\\r\\n", b"A: b\\0\\r\\n"]
print(json.dumps([ask(get(more=each)) for each in bad]))
""",
    )
    assert [each[:12] for each in found] == ["HTTP/1.1 400"] * 6
    assert len(machine.outside.exchanges) == before


def test_18_and_19_addresses_lead_nowhere(machine: Machine) -> None:
    found = attempt(
        machine,
        """
literals = ["93.184.216.34", "0x5db8d822", "1572395042", "0135.0270.0330.042",
            "::ffff:93.184.216.34", "169.254.169.254", "198.18.77.7"]
found = [ask(get(host=each), host=each, sni="", port=80) for each in literals]
found += [ask(get(), host=each) for each in literals]
found += [ask(get(), host=each, sni="", port=80) for each in ("fd00:ec2::254", "2606:2800::1")]
print(json.dumps(found))
""",
    )
    assert {each[:12] for each in found[:7]} <= {"HTTP/1.1 403", "HTTP/1.1 421"}
    assert set(found[7:14]) == {"ConnectionResetError"}
    assert set(found[14:]) == {"OSError"}
    assert ("address", "169.254.169.254", 443) in machine.outside.notes


def test_23_and_24_no_datagram_leaves(machine: Machine) -> None:
    found = attempt(
        machine,
        """
def send(port, kind=socket.SOCK_DGRAM, protocol=0):
    with socket.socket(socket.AF_INET, kind, protocol) as out:
        out.settimeout(0.2)
        try:
            out.connect(("93.184.216.34", port))
            out.send(b"\\x08\\0\\xf7\\xff\\0\\0\\0\\0")
            out.recv(100)
        except OSError as error:
            return type(error).__name__
print(json.dumps([send(53), send(443), send(123), send(0, socket.SOCK_RAW, 1)]))
""",
    )
    assert found[:3] == ["ConnectionRefusedError"] * 3
    label = "x" * 60
    with pytest.raises(AssertionError):
        machine.run("curl", "-sS", f"https://{label}.evil.com/")
    assert ("unknown_name", f"{label}.evil.com", None) in machine.outside.notes


def test_one_that_goes_is_reset_at_the_host(machine: Machine) -> None:
    outside, driver = machine.outside, machine.driver
    told = Told(driver, "curl", "-sSN", "https://api.example.com/endless")

    def endless(exchange: Exchange) -> Answer:
        def pieces() -> Iterator[bytes]:
            yield b"begun"
            told.sees(b"begun")
            driver.say("exec.kill", exec=told.id)
            while True:
                yield b"x" * 30_000

        return 200, [], pieces()

    outside.answer = endless
    driver.until(lambda: any(each.reset for each in outside.of("api.example.com")))


SLEEPER = """
import socket, urllib.request
from concurrent.futures import ThreadPoolExecutor
import torpor

def fetch(url):
    with urllib.request.urlopen(url, timeout=600) as response:
        return response.read().decode()

def hold():
    with socket.create_connection(("db.example.com", 5432)) as connection:
        try:
            return connection.recv(1).decode()
        except OSError as error:
            return type(error).__name__

@torpor.agent
def sleeper():
    with ThreadPoolExecutor(3) as pool:
        parts = [pool.submit(fetch, "https://kept.example.com/"), pool.submit(hold),
                 pool.submit(fetch, "https://asked.example.com/")]
        torpor.approve("go on?")
        return [each.result() for each in parts]
"""


def test_a_freeze_in_the_middle_of_everything(tmp_path: Path) -> None:
    """A recorded answer goes on at its offset, a person's decision comes after it, and what was
    plain is reset at once."""
    machine = Machine(tmp_path, SLEEPER)
    driver, outside = machine.driver, machine.outside
    try:
        idle = socket.socketpair()
        outside.connect = lambda _: idle[0]
        driver.until(lambda: len(driver.said("begin")) == 3 and bool(outside.of("db.example.com")))
        (call,), (permission,), (wait,) = (
            driver.said("begin", kind=kind) for kind in ("http", "permission", "wait")
        )
        driver.until(lambda: bool(driver.said("status", waiting=2, calls=1)))
        number = call["stream"]
        head = {"status": 200, "headers": [["content-type", "text/plain"]]}
        driver.pass_on(streams.encode(streams.HEAD, number, head))
        driver.pass_on(streams.encode_at(streams.DATA, number, 0, b"one "))
        driver.say("prepare")
        driver.hear("prepared")
        driver.frames.clear()
        driver.thaw()
        driver.hear("thawed")
        driver.until(lambda: any(each.kind == streams.ATTACH for each in driver.frames))
        (attach,) = [each for each in driver.frames if each.kind == streams.ATTACH]
        assert (attach.stream, attach.fields) == (number, {"op": call["op"], "offset": 4})
        driver.pass_on(streams.encode_at(streams.DATA, number, 0, b"one two"))
        driver.pass_on(streams.encode_at(streams.END, number, 7))
        value = {"status": 200, "headers": {}, "body": "one two"}
        driver.say("result", op=call["op"], ok=True, value=value)
        decision = {"status": "completed", "data": {"decision": "once"}, "by": "ana"}
        driver.say("result", op=permission["op"], ok=True, value=decision)
        allowed = driver.hear("begin", kind="http", name=permission["name"].removeprefix("GET "))
        assert allowed["data"]["permission"] == permission["op"]
        driver.say("result", op=allowed["op"], ok=True, value={**value, "body": "allowed"})
        driver.say("result", op=wait["op"], ok=True, value={"status": "completed"})
        assert driver.hear("done")["value"] == ["one two", "ConnectionResetError", "allowed"]
    finally:
        driver.close()


def switches(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("voluntary_ctxt_switches:")[1].split()[0])


def wait_idle(gateway: int) -> None:
    wchan = Path(f"/proc/{gateway}/wchan")
    deadline = time.monotonic() + PATIENCE_S
    while "poll" not in wchan.read_text() and time.monotonic() < deadline:
        os.sched_yield()  # it is still importing


def test_a_gateway_that_nobody_uses_does_nothing(driver: Driver) -> None:
    """Not over a freeze and a thaw either: nothing of it is in a snapshot but what the base has."""
    parent = driver.process.pid
    driver.hear("hello")
    driver.send_files({"agent.py": "import torpor\n@torpor.agent\ndef a(): torpor.approve('?')"})
    (gateway,) = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    driver.say("load", entry="agent.py", deps=False, version="v")
    driver.hear("loaded")
    wait_idle(gateway)
    before = switches(gateway)
    driver.start()
    wait = driver.hear("begin", kind="wait")
    driver.say("prepare")
    driver.hear("prepared")
    driver.thaw()
    driver.hear("thawed")
    driver.say("result", op=wait["op"], ok=True, value={"status": "completed"})
    driver.hear("done")
    assert switches(gateway) == before


PAST_THE_GATEWAY = """
with socket.create_server(("", 2222)) as own:
    for address in ("127.0.0.1", "10.1.2.3"):
        socket.create_connection((address, 2222)).close()
print(json.dumps(ask(b"", "127.0.0.1", "", 23)))
"""


def test_what_leads_past_the_gateway_does_not_wake_it(tmp_path: Path) -> None:
    """The agent's own servers, and what is refused on the loopback; only a refusal elsewhere."""
    machine = Machine(tmp_path)
    try:
        parent = machine.driver.process.pid
        gateway, *_ = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
        wait_idle(gateway)
        before = switches(gateway)
        refused = attempt(machine, PAST_THE_GATEWAY)
        assert refused == "ConnectionRefusedError"
        assert switches(gateway) == before
        assert attempt(machine, "print(json.dumps(ask(b'', '10.1.2.3', '', 5432)))")
        machine.driver.until(lambda: ("address", "10.1.2.3", 5432) in machine.outside.notes)
        assert switches(gateway) > before
    finally:
        machine.driver.close()
