"""The attempts of the fifty that need a machine, in one that all of them share: an agent without
rights tries everything (`attacker.py`), then sleeps and tries its network again, and once more
after its machine was killed. Here is what each attempt must have given, and what the log must have.

What never becomes a connection is an error of the system's for the client and is not in the log:
addresses of IPv6, UDP, ICMP, raw sockets. All else is refused in words, or by the kernel, and
logged; a name or a port that no rule knows, once.

Attempts 46 to 50 are those of an agent's own code against supervisor, gateway and host, and what
may be published. Code that agents run apart from themselves has no sandbox of its own yet.
"""

from __future__ import annotations

import base64
import json
import os
import re
import socket
import sqlite3
import ssl
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import HERE
from tests.e2e.stage import DEADLINE_S, Entry, Stage, Watch, command_of, end

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Damaged
from torpor.core.home import Home
from torpor.egress.authority import Authority
from torpor.project.reading import read_agent
from torpor.snapshot.hostkey import read_host_key
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.seal import Key
from torpor.snapshot.store import SnapshotStore
from torpor.worker.sealing import unwrap

PORT = 18444
HOSTS = ("allowed.example", "recorded.example", "elsewhere.example")
SECRET = "tk-" + base64.b32encode(os.urandom(20)).decode().lower()
FREEZES = 10
HELD_S = 600.0  # while memory is searched


class Upstream(ThreadingHTTPServer):
    """Answers over TLS, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", PORT), _Handler)
        self.requests: Counter[str] = Counter()
        self.keys: set[str] = set()
        self._changed = threading.Condition()
        self._let = 0

    def came(self, path: str, key: str) -> int:
        """The number of the request for this path."""
        with self._changed:
            self.requests[path] += 1
            self.keys.add(key)
            self._changed.notify_all()
            return self.requests[path]

    def wait_asked(self, path: str, times: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.requests[path] >= times, DEADLINE_S)

    def hold(self, number: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._let >= number, HELD_S)

    def let(self, number: int) -> None:
        """Answer what is held, up to the request of this number."""
        with self._changed:
            self._let = number
            self._changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        """Of any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        server = self.server
        assert isinstance(server, Upstream)
        self.rfile.read(int(self.headers.get("content-length") or 0))
        key = self.headers.get("authorization", "")
        number = server.came(self.path, key)
        path, _, how = self.path.partition("?")
        headers, pieces = {"content-type": "text/plain"}, [b"hello"]
        match path:
            case "/stream":
                headers = {"content-type": "text/event-stream"}
                pieces = [f"data: {word}\n\n".encode() for word in ("one", "two", how)]
            case "/v1/hold":
                server.hold(number)
            case "/v1/echo":
                pieces = [self.headers.get("x-shown", "").encode()]
            case "/v1/redirect":
                headers["location"] = "https://unlisted.example/"
            case "/v1/echo-secret":
                headers, pieces = _echo(key, how)
        self.send_response(302 if "location" in headers else 200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(sum(map(len, pieces))))
        self.end_headers()
        for piece in pieces:
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None: ...


def _echo(key: str, how: str) -> tuple[dict[str, str], list[bytes]]:
    raw, half = key.encode(), len(key) // 2
    match how:
        case "as=base64":
            return {}, [base64.b64encode(raw)]
        case "as=header":
            return {"x-echo": key}, [b"hello"]
        case "as=pieces":
            return {}, [raw[:half], raw[half:]]
    return {}, [raw]


@pytest.fixture(scope="module")
def upstream(session_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    folder = tmp_path_factory.mktemp("upstream")
    authority = Authority.new()
    leaf = authority.leaf(HOSTS)
    (folder / "leaf.pem").write_text(leaf.key + leaf.chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem")
    server = Upstream()
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home = session_stage.home
    (home.root / "attempts.pem").write_text(authority.certificate)
    known = [
        f'[[host]]\nname = "{name}"\naddresses = ["127.0.0.1"]\nports = [{PORT}]\n'
        'ca = "attempts.pem"\n'
        for name in (*HOSTS, "torpor.example")
    ]
    home.egress.write_text("".join(known))
    session_stage.client.set_secret(
        "ATTEMPTS_TOKEN",
        SECRET,
        hosts=["allowed.example", "recorded.example"],
        placement={"header": "Authorization: Bearer {}"},
    )
    yield server
    server.let(1 << 30)
    session_stage.client.remove_secret("ATTEMPTS_TOKEN")
    home.egress.unlink()
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def version(
    session_stage: Stage, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """The attacker, deployed: with the name of this host, which leads to the loopback or to an
    address of its own."""
    text = (HERE / "attacker.py").read_text()
    path = tmp_path_factory.mktemp("attacker") / "attacker.py"
    path.write_text(text.replace("inside.example", socket.gethostname().lower()))
    deployed = session_stage.client.deploy(read_agent(path), lambda stage, message, fraction: None)
    return str(deployed["version"])


@dataclass(frozen=True)
class Tried:
    """What the attacker's attempts gave, by when they were made."""

    phases: Mapping[str, Mapping[str, str]]
    entries: list[Entry]

    def gave(self, number: int, wanted: Mapping[str, str]) -> None:
        """Each attempt of this number gave what is wanted of it, whenever it was made."""
        named = f"{number:02} "
        for phase, tried in self.phases.items():
            found = {name.removeprefix(named) for name in tried if name.startswith(named)}
            for name in found:
                outcome = tried[named + name]
                pattern = next((p for n, p in wanted.items() if re.fullmatch(n, name)), None)
                assert pattern is not None, f"{phase}: {named}{name} gave {outcome}"
                assert re.match(pattern, outcome, re.DOTALL), f"{phase}: {named}{name}: {outcome}"
        tries = [name for tried in self.phases.values() for name in tried]
        assert any(name.startswith(named) for name in tries)

    def logged(self, code: str, *words: str, each_time: bool = True) -> None:
        """The log has such a refusal, of each time that the network was tried."""
        refused = [e for e in self.entries if e["kind"] == "egress.refused"]
        found = [
            entry["epoch"]
            for entry in refused
            if entry["data"]["code"] == code and all(w in json.dumps(entry["data"]) for w in words)
        ]
        assert len(set(found)) == (3 if each_time else 1), [each["data"] for each in refused]
        # What to do, or at least what it was.
        assert all(len(entry["data"]["reason"]) > 20 for entry in refused)


@pytest.fixture(scope="module")
def tried(session_stage: Stage, version: str, upstream: Upstream) -> Tried:
    stage = session_stage
    watch = Watch(stage.client, stage.client.start(version, "attacker", {}, None)["id"])
    phases = dict[str, Mapping[str, str]]()

    def next_phase() -> None:
        phases.update(watch.until("note.emit")["data"])

    for _ in range(7):
        next_phase()
    watch.until("run.suspended")
    stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    next_phase()
    upstream.wait_asked("/v1/hold", 1)
    end(stage.machine(watch.run))
    watch.until("run.recovered")
    upstream.let(1 << 30)
    while "recovered" not in phases:
        next_phase()
    assert watch.ended()["state"] == "completed", watch
    upstream.let(0)
    upstream.requests.clear()
    return Tried(phases, watch.entries)


def test_what_a_rule_allows_goes_out_with_the_secret(tried: Tried, upstream: Upstream) -> None:
    """Else all that follows would say nothing. No key but ours reaches a server (27)."""
    tried.gave(0, {"what a rule allows": "200 hello"})
    assert upstream.keys == {f"Bearer {SECRET}"}


NOWHERE = "gaierror"  # there is no such name


def test_attempt_01_a_host_that_no_rule_names(tried: Tried) -> None:
    tried.gave(1, {"name": NOWHERE, "sni": "SSLError|ssl", "connect": r"HTTP/1.1 400 .*not a path"})
    tried.logged("unknown_name", "unlisted.example", "[[tool.torpor.egress]]", each_time=False)
    tried.logged("misdirected", "unlisted.example")
    tried.logged("malformed", "allowed.example")


def test_attempt_02_a_nul_in_the_name(tried: Tried) -> None:
    tried.gave(2, {"nul": r"HTTP/1.1 400 .*characters", "nul looked up": "ValueError|gaierror"})


def test_attempt_05_06_another_host_than_was_connected_to(tried: Tried) -> None:
    for number in (5, 6):
        tried.gave(number, {".*": r"HTTP/1.1 421 .*cannot ask for"})
    tried.logged("misdirected", "unlisted.example", f"{PORT}")


def test_attempt_07_another_port(tried: Tried) -> None:
    tried.gave(7, {"port": "ConnectionRefusedError", "port 443": "403 .*only 18444"})
    tried.logged("unknown_port", "allowed.example", "port = 18445 would allow", each_time=False)
    tried.logged("port", "443")


def test_attempt_08_plain_http(tried: Tried) -> None:
    tried.gave(8, {"plain": "403 .*over https only", "plain at the port": "closed|ConnectionReset"})
    tried.logged("plain_http", "allowed.example")


def test_attempt_09_the_secret_in_clear_to_an_address(tried: Tried) -> None:
    tried.gave(9, {"plain": "HTTP/1.1 421"})


def test_attempt_12_13_14_17_what_servers_read_differently(tried: Tried) -> None:
    tried.gave(12, {"path": "HTTP/1.1 403 .*plain path"})
    tried.gave(13, {"method": "403 .*not for DELETE", "trace": "403 .*TRACE"})
    tried.gave(14, {"both": "HTTP/1.1 400 .*not both"})
    tried.gave(17, {"h2c": "HTTP/1.1 200 OK"})  # by a plain request, which upgrades nothing
    tried.logged("ambiguous_target", "/v1/../admin")
    tried.logged("method", "DELETE")
    tried.logged("bad_method", "TRACE")


def test_attempt_18_addresses_in_all_spellings(tried: Tried) -> None:
    refused = r"HTTP/1.1 400 .*is an address, not a name"
    tried.gave(
        18,
        {
            "literal|decimal|octal|hex": refused,
            "tls": "closed|ConnectionReset",
            "another port": "ConnectionRefusedError",
            "mapped": rf"{refused}|OSError|ConnectionRefused",
            "v6": "OSError ENETUNREACH",
        },
    )
    tried.logged("bad_request", "93.184.216.34", "an address")
    tried.logged("address", "93.184.216.34", "443")
    tried.logged("address", "93.184.216.34", "5432", each_time=False)


def test_attempt_19_a_clouds_metadata(tried: Tried) -> None:
    tried.gave(
        19,
        {"metadata": "400 .*an address", "metadata v6": "OSError ENETUNREACH", "named": "URLError"},
    )
    tried.logged("bad_request", "169.254.169.254/latest/meta-data")
    tried.logged("unknown_name", "metadata.google.internal", each_time=False)


def test_attempt_20_a_name_that_leads_inside(tried: Tried) -> None:
    tried.gave(20, {"inside": r"403 .*Only \[\[host\]\] in egress.toml can allow that"})
    tried.logged("private_address", socket.gethostname().lower())


def test_attempt_24_what_is_no_tcp_and_what_is_in_front_of_the_gateway(tried: Tried) -> None:
    no_right = "PermissionError (EPERM|EACCES)"
    tried.gave(
        24,
        {
            "icmp": f"{no_right}|TimeoutError",
            "raw|packet": no_right,
            "vsock": "OSError|ConnectionReset|PermissionError",
            "udp|quic|quic allowed": "ConnectionRefusedError|TimeoutError",
            "udp v6": "OSError ENETUNREACH",
            "resolv.conf|hosts|routes": no_right,
            "in front of .*": f"{no_right}|OSError EADDRINUSE",
        },
    )


def test_attempt_25_a_port_that_the_hosts_file_does_not_name(tried: Tried) -> None:
    tried.gave(25, {"ports": "403 .*on port 18444 only, not 18445"})
    tried.logged("port", "torpor.example:18445")


def test_attempt_26_where_a_redirect_leads(tried: Tried) -> None:
    """The client follows it, and its next request is judged."""
    tried.gave(26, {"redirect": "URLError"})


def test_attempt_27_28_a_key_of_the_agents_own_and_an_echo_of_ours(tried: Tried) -> None:
    tried.gave(27, {"key": "200 sent"})
    tried.gave(
        28,
        {
            "echo in a header": "502 .*the secret ATTEMPTS_TOKEN is in it",
            ".*": "ConnectionResetError|IncompleteRead|502 .*ATTEMPTS_TOKEN",
        },
    )
    text = json.dumps([tried.entries, *tried.phases.values()])
    assert SECRET not in text
    ends = [e["data"] for e in tried.entries if e["kind"] == "egress.end"]
    leaks = [e for e in ends if "secret_in_answer" in e.get("problem", "")]
    assert len(leaks) >= 3 * 4, "each in each epoch"


def test_attempt_30_a_secret_elsewhere(tried: Tried) -> None:
    tried.gave(30, {"elsewhere": "403 .*not for elsewhere.example"})
    tried.logged("secret_not_bound", "elsewhere.example")


def test_attempt_46_supervisor_gateway_and_devices(tried: Tried) -> None:
    tried.gave(
        46,
        {
            "inherited": r"\[\]",
            "files of the gateway": r"\[\]",
            ".*": r"PermissionError|FileNotFoundError",
        },
    )


def test_attempt_47_namespaces_mounts_and_other_users_programs(tried: Tried) -> None:
    tried.gave(
        47,
        {
            "abstract sockets|shared memory|keys": r"\[\]",
            "su": "CalledProcessError",
            "no new privileges": "1",
            "own limits": r"PermissionError|\[\]",
            "user.* namespace": "CalledProcessError",
            ".*": r"PermissionError|OSError ENOSYS",
        },
    )


def test_attempt_48_artifacts_that_are_something_else(tried: Tried) -> None:
    tried.gave(
        48,
        {
            "symlink to memory": "PermissionError",
            "symlink": "",
            "directory": "IsADirectoryError",
            "fifo|socket|device": "ValueError .*is not a file",
            "name.*|absolute name": "ValueError .*a name",
            "sparse": "ValueError .*an artifact has at most",
        },
    )


def test_attempt_49_what_is_left_for_others(tried: Tried) -> None:
    """Nothing that the supervisor, the gateway or another command loads is the agent's."""
    tried.gave(49, {"left for others": r"\[\]"})


def test_attempt_50_everything_used_up_and_the_supervisor_lives(tried: Tried) -> None:
    tried.gave(
        50,
        {
            "memory": "-9|137|1",
            "after the hog": "alive",
            "disk": "OSError ENOSPC",
            "descriptors": "OSError EMFILE",
            "connections": "",
            "during the fork bomb": "alive",
            "afterwards": "alive afterwards",
            "network afterwards": "200 hello",
            ".*": "PermissionError",
        },
    )


# The search for the secret.


def forms(value: str) -> list[bytes]:
    raw = value.encode()
    # In base 64 at each place that it can begin at, without what stands around it.
    encoded = [base64.b64encode(bytes(n) + raw)[4 * (n > 0) : -4] for n in range(3)]
    return [raw, raw.hex().encode(), raw[::-1], *encoded]


WANTED = forms(SECRET)


def has_secret(data: bytes) -> bool:
    return any(form in data for form in WANTED)


def memory_has_secret(pid: int) -> bool:
    """Of all that a process can read, a machine's memory included."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *rest = line.split()
            if "r" not in rights or (rest and rest[-1].startswith("[v")):
                continue
            at, stop = (int(each, 16) for each in span.split("-"))
            kept = piece = b" "
            while at < stop and piece:
                try:
                    memory.seek(at)
                    piece = memory.read(min(1 << 24, stop - at))
                except (OSError, OverflowError):  # of a device
                    break
                if has_secret(kept + piece):
                    return True
                kept, at = piece[-256:], at + len(piece)
    return False


def snapshots_have_secret(home: Home, run: str) -> tuple[int, bool]:
    """All snapshots that there are, page by page; how many they are."""
    database = sqlite3.connect(f"file:{home.database}?mode=ro", uri=True)
    (wrapped,) = database.execute("select wrapped from run_keys where run = ?", [run]).fetchone()
    database.close()
    key = unwrap(read_host_key(home.host_key), run, wrapped)
    store = SnapshotStore(LocalBlobs(home.blobs), lambda image: home.images / image / "root.erofs")
    seen = 0
    for digest in store.manifests():
        pages = pages_of(store, digest, key)
        if pages is None:  # of another run
            continue
        seen += 1
        if any(map(has_secret, pages)):
            return seen, True
    return seen, False


def pages_of(store: SnapshotStore, digest: str, key: Key) -> Iterator[bytes] | None:
    try:
        manifest = store.load(digest, key)
    except Damaged:
        return None
    reader = store.reader(manifest, FrameCache(1 << 26), key)

    def pages() -> Iterator[bytes]:
        for name, region in manifest.regions.items():
            numbers = np.flatnonzero(region.refs).astype(np.int64)
            for start in range(0, len(numbers), 4096):
                yield reader.pages(name, numbers[start : start + 4096]).tobytes()

    return pages()


def files_with_secret(home: Home) -> list[str]:
    """But for the pager's, which are machines' memory: a spare one's waits for a snapshot."""
    found = []
    for folder, folders, names in os.walk(home.root):
        if Path(folder) == home.run:
            folders.remove("mnt")
        paths = (Path(folder, name) for name in names)
        found += [str(p) for p in paths if p.is_file() and has_secret(p.read_bytes())]
    return found


def test_attempt_33_the_secret_is_in_the_brokers_memory_and_nowhere_else(
    session_stage: Stage, version: str, upstream: Upstream
) -> None:
    """After ten freezes, and a kill of machine and server, with a client of the standard library's
    whose answers stream: memory, snapshots, database, logs, files, environments, commands."""
    stage = session_stage
    watch = Watch(
        stage.client, stage.client.start(version, "keeper", {"freezes": FREEZES}, None)["id"]
    )
    for _ in range(FREEZES):
        watch.until("run.suspended")
        stage.client.complete(stage.open_wait(watch.run)["id"], approved=True)
    upstream.wait_asked("/v1/hold", 1)
    end(stage.machine(watch.run))
    stage.kill()
    stage.start()
    watch.until("run.recovered")
    upstream.wait_asked("/v1/hold", 2)
    (broker,) = stage.processes("torpor.egress")
    assert memory_has_secret(broker), "the search finds what is there"
    others = [p for p in stage.processes() if p != broker]
    machine = stage.machine(watch.run)
    assert {machine, stage.server_pid} < set(others)
    for pid in others:
        # A spare machine has had no agent, and whoever looks at its memory waits for one.
        if pid == machine or "qemu" not in command_of(pid):
            assert not memory_has_secret(pid), command_of(pid)
    for pid in (*others, broker):
        for what in ("environ", "cmdline"):
            assert not has_secret(Path(f"/proc/{pid}/{what}").read_bytes()), (pid, what)
    seen, found = snapshots_have_secret(stage.home, watch.run)
    assert seen >= 2 and not found, "the template's and the run's"
    assert not files_with_secret(stage.home)
    upstream.let(2)
    result: dict[str, Any] = watch.ended()["result"]
    lines = [["data: one", "data: two", f"data: n={n}"] for n in range(FREEZES)]
    assert result["lines"] == lines
    assert {upstream.requests[f"/stream?n={n}"] for n in range(FREEZES)} == {1}
    assert not has_secret(json.dumps([result, watch.entries]).encode())
    assert not files_with_secret(stage.home)
