"""Commands over HTTP, of a real server: its sockets, its flow control, its clients that leave."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.stage import wait_gone

from torpor.client import Client, ensure_server, stop_server
from torpor.client.execs import Exec
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.home import Home
from torpor.testing.fakes.service import VERSION

PROGRAM = [sys.executable, "-m", "torpor.testing.fakes.service"]
WAITS = {"script": [["wait", "go on?", None], ["return", 1]]}


@pytest.fixture(scope="module")
def server() -> Iterator[Client]:
    # Short: the path of a Unix socket must be.
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder))
        with pytest.MonkeyPatch.context() as patch:
            command = [*PROGRAM, folder]
            patch.setattr("torpor.client.launch.server_command", lambda home: command)
            ensure_server(home)
            yield Client(home)
            stop_server(home)


@pytest.fixture
def run(server: Client) -> str:
    return str(server.start(VERSION, None, WAITS, None)["id"])


def asked(*command: str, **more: Any) -> dict[str, Any]:
    return {"command": list(command), **more}


def whole(command: Exec) -> tuple[dict[str, Any], bytes, bytes]:
    """How it ended, and all that it wrote."""
    out: dict[int, bytes] = {1: b"", 2: b""}
    last: dict[str, Any] = {}
    for event in command.events():
        if isinstance(event, tuple):
            out[event[0]] += event[1]
        else:
            last = event
    return last, out[1], out[2]


def test_a_command_from_beginning_to_end(server: Client, run: str) -> None:
    script = "echo out; echo $A >&2; exit 3"
    with server.exec(run[:16], asked("sh", "-c", script, env={"A": "b"})) as c:
        events = list(c.events())
    assert events[0] == {"exec": c.id, "run": run} and {"began": True} in events
    assert (1, b"out\n") in events and (2, b"b\n") in events
    assert events[-1] == {"code": 3, "signal": None, "problem": ""}
    with server.exec(run, asked("nope")) as command:
        assert whole(command)[0]["problem"].startswith("nope: No such file")


def test_what_is_refused(server: Client, run: str) -> None:
    for wrong, says in (
        ({"command": []}, "at least 1 item"),
        ({"command": [""]}, "no command"),
        ({"command": ["a\0"]}, "cannot contain a NUL"),
        ({"command": ["x" * 200_000]}, "at most"),
        ({"command": ["a"], "env": {"B C": ""}}, "no name"),
        ({"command": ["a"], "terminal": {"rows": 0, "cols": 1}}, "greater than"),
        ({"command": ["a"], "user": "me"}, "'agent' or 'root'"),
    ):
        with pytest.raises(Invalid, match=says), server.exec(run, wrong):
            pass
    with pytest.raises(NotFound), server.exec("run_none", asked("true")):
        pass
    over = server.start(VERSION, None, {"script": [["return", 1]]}, None)["id"]
    list(server.follow(over))
    with pytest.raises(Conflict, match="has ended"), server.exec(over, asked("true")):
        pass
    with server.exec(run, asked("true")) as command:
        whole(command)
        with pytest.raises(NotFound, match="no command"):
            command.signal("INT")


def test_what_it_reads_and_signals(server: Client, run: str) -> None:
    data = os.urandom(2_500_000)  # more than a body may have that is not streamed

    def feed(command: Exec, chunks: Iterator[bytes]) -> threading.Thread:
        thread = threading.Thread(target=command.feed, args=(chunks,))
        thread.start()
        return thread

    with server.exec(run, asked("cat", stdin=True)) as command:
        events = command.events()
        assert next(events) == {"exec": command.id, "run": run}
        pieces = (data[at : at + 100_000] for at in range(0, len(data), 100_000))
        thread = feed(command, pieces)
        came = b"".join(event[1] for event in events if isinstance(event, tuple))
        thread.join()
        assert came == data
    with server.exec(run, asked("sh", "-c", "trap 'exit 9' INT; echo up; read x", stdin=True)) as c:
        for event in c.events():
            if event == (1, b"up\n"):
                c.signal("INT")
        assert event == {"code": 9, "signal": None, "problem": ""}
    size = {"rows": 10, "cols": 20}
    script = "stty size; read go; stty size"
    with server.exec(run, asked("sh", "-c", script, stdin=True, terminal=size)) as command:
        text = b""
        typing: threading.Thread | None = None
        for event in command.events():
            text += event[1] if isinstance(event, tuple) else b""
            if b"10 20" in text and typing is None:
                command.resize(30, 40)
                typing = feed(command, iter([b"go\n"]))
        assert typing is not None
        typing.join()
        assert b"30 40" in text


def test_a_client_that_leaves_ends_it(server: Client, run: str) -> None:
    with server.exec(run, asked("sh", "-c", "sleep 1000 & echo $!; wait")) as command:
        for event in command.events():
            if isinstance(event, tuple):
                break
    assert isinstance(event, tuple)
    wait_gone(int(event[1]))


def test_a_slow_client_does_not_fill_the_server(server: Client, run: str) -> None:
    """What is written is a hundred times of what may be kept, by somebody much faster."""
    size = 50_000_000
    connection = socket.socket(socket.AF_UNIX)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(str(server.home.socket("server")))
    body = json.dumps(asked("head", "-c", str(size), "/dev/zero")).encode()
    head = f"POST /v1/runs/{run}/execs HTTP/1.0\r\nhost: torpor\r\n"
    head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    before = _most_memory(server)
    with connection:
        connection.sendall(head.encode() + body)
        came = 0
        while piece := connection.recv(8192):
            came += len(piece)
    assert came > size
    assert _most_memory(server) - before < 16 << 20


def _most_memory(server: Client) -> int:
    pid = json.loads((server.home.run / "server.json").read_text())["pid"]
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
