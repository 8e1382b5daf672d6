"""What the way out is for, whole: an unmodified client's answers stream from a real server, with a
secret, through ten freezes, and through the deaths of machine, server and broker."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import HERE
from tests.e2e.stage import DEADLINE_S, Stage, Watch, command_of, end
from tests.e2e.upstreams import reachable

from torpor.project.reading import read_agent

PORT, HOST = 18446, "llm.central.example"
SECRET = "sk-central-3f9c51d2e8b74a06"
# How often the machine sleeps under each: before its answer, and between its pieces.
ASLEEP = {"asleep one": 4, "asleep two": 3, "asleep three": 3}
STRUCK = ["machine", "server", "broker"]
PIECES = 6


class Upstream(ThreadingHTTPServer):
    """Answers in pieces, of questions that are no "…, in words" each once the test lets it."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.sent: dict[str, bytes] = {}  # of the newest request of each question
        self.keys: set[str] = set()
        self._changed = threading.Condition()
        self._let: Counter[str] = Counter()
        super().__init__(("127.0.0.1", PORT), Handler)

    def came(self, question: str, key: str) -> None:
        with self._changed:
            self.requests[question] += 1
            self.sent[question] = b""
            self.keys.add(key)
            self._changed.notify_all()

    def wait_asked(self, question: str, times: int = 1) -> None:
        with self._changed:
            asked = lambda: self.requests[question] >= times  # noqa: E731
            assert self._changed.wait_for(asked, DEADLINE_S), self.requests

    def let(self, question: str, pieces: int = PIECES) -> None:
        """So many more."""
        with self._changed:
            self._let[question] += pieces
            self._changed.notify_all()

    def wait_let(self, question: str, piece: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._let[question] > piece, DEADLINE_S)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        question, upstream = asked["messages"][-1]["content"], self.server
        upstream.came(question, self.headers["authorization"])
        number = upstream.requests[question]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for piece in range(PIECES):
            if not question.endswith("in words"):
                upstream.wait_let(question, piece)
            self._send(question, number, _chunk(f"{question}: piece {piece} of answer {number}. "))
        self._send(question, number, b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def handle(self) -> None:
        with contextlib.suppress(OSError):  # who asked was killed meanwhile
            super().handle()

    def _send(self, question: str, number: int, data: bytes) -> None:
        if self.server.requests[question] == number:
            self.server.sent[question] += data
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *args: object) -> None: ...


def _chunk(text: str) -> bytes:
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


@pytest.fixture
def upstream(session_stage: Stage) -> Iterator[Upstream]:
    server, client = Upstream(), session_stage.client
    with reachable(session_stage, server, [HOST]):
        client.set_secret(
            "CENTRAL_KEY", SECRET, hosts=[HOST], placement={"header": "Authorization: Bearer {}"}
        )
        yield server
        for question in (*ASLEEP, *STRUCK):
            server.let(question)
        client.remove_secret("CENTRAL_KEY")


@pytest.fixture
def version(session_stage: Stage, upstream: Upstream) -> str:
    source = read_agent(HERE / "streaming.py")
    deployed = session_stage.client.deploy(source, lambda stage, message, fraction: None)
    return str(deployed["version"])


def test_answers_stream_through_freezes_and_deaths(
    stage: Stage, version: str, upstream: Upstream
) -> None:
    began = time.monotonic()
    given = {"questions": [*ASLEEP, *STRUCK]}
    watch = Watch(stage.client, stage.client.start(version, "streaming", given, None)["id"])
    for question, freezes in ASLEEP.items():
        for left in reversed(range(freezes)):
            watch.until("run.suspended")
            upstream.let(question, 1 if left else PIECES)
    slept_s = time.monotonic() - began
    strike(stage, watch, upstream)
    ended = watch.ended()
    assert ended["state"] == "completed", watch
    for question, (digest, failed, text, failed_text) in zip(
        given["questions"], ended["result"], strict=True
    ):
        assert digest == hashlib.sha256(upstream.sent[question]).hexdigest(), question
        assert text == _text(upstream.sent[f"{question}, in words"])
        assert (bool(failed), failed_text) == (question == "broker", ""), ended["result"]
        assert upstream.requests[question] == (2 if question == "broker" else 1)
    calls = [op for op in watch.ops("op.begin") if op.startswith("model:")]
    assert len(calls) == len(set(calls)) == sum(upstream.requests.values())
    ends = [e for e in watch.entries if e["kind"] == "op.end" and e["op"] in calls]
    assert sorted(e["op"] for e in ends) == sorted(calls)
    assert [e["data"]["value"]["status"] for e in ends].count(200) >= len(calls) - 1
    assert upstream.keys == {f"Bearer {SECRET}"}
    assert {e["data"]["egress"].get("secret") for e in ends} == {"CENTRAL_KEY"}
    nowhere(stage, watch)
    took_s = time.monotonic() - began
    print(
        f"{len(calls)} calls, {watch.count('run.suspended')} freezes in {slept_s:.0f} s, "
        f"{watch.count('run.recovered')} recoveries, {took_s:.0f} s in all"
    )


def strike(stage: Stage, watch: Watch, upstream: Upstream) -> None:
    """Each in the middle of an answer, whose next piece has woken the machine."""
    for victim in STRUCK:
        upstream.wait_asked(victim)
        watch.until("run.suspended")
        machine = woken(stage, watch, upstream, victim)
        match victim:
            case "machine":
                end(machine)
            case "server":
                stage.kill()
                stage.start()
            case "broker":
                (broker,) = stage.processes("torpor.egress")
                end(broker)
                upstream.wait_asked(victim, 2)
        upstream.let(victim)


def woken(stage: Stage, watch: Watch, upstream: Upstream, question: str) -> int:
    """The machine that a piece of the answer has woken; on a slow host it may sleep again before
    anybody sees it."""
    for _ in range(PIECES - 1):
        upstream.let(question, 1)
        watch.until("machine.up")
        machine = stage.client.run(watch.run)["machine"]
        if machine is not None and machine["pid"] is not None:
            return int(machine["pid"])
    raise AssertionError(f"it sleeps at once, each time:\n{watch}")


def nowhere(stage: Stage, watch: Watch) -> None:
    """The secret's bytes are not in the log, in files, environments or commands. (In memory and in
    snapshots, `test_e2e_attempts` looks for them.)"""
    wanted = SECRET.encode()
    assert wanted not in json.dumps(watch.entries).encode()
    for pid in (stage.server_pid, *stage.processes()):
        for what in ("environ", "cmdline"):
            assert wanted not in Path(f"/proc/{pid}/{what}").read_bytes(), command_of(pid)
    mounts = [Path(line.split()[1]) for line in stage.mounts()]  # machines' memory, by the pager
    for directory, names, files in os.walk(stage.home.root):
        names[:] = [name for name in names if Path(directory, name) not in mounts]
        for path in (Path(directory, name) for name in files):
            if path.is_file():
                assert wanted not in path.read_bytes(), path


def _text(stream: bytes) -> str:
    events: list[Any] = [
        json.loads(line[6:]) for line in stream.splitlines() if line.startswith(b"data: {")
    ]
    return "".join(event["choices"][0]["delta"]["content"] for event in events)
