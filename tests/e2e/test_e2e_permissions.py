"""Tools and requests ask for permission on a real machine, which is frozen until a person has
decided."""

from __future__ import annotations

import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.e2e.conftest import Start
from tests.e2e.stage import Stage
from tests.e2e.upstreams import reachable

PORT = 18447
HOSTS = ["asked.example", "watched.example"]
SECRET = "asked-for-5d0c47"


def torpor(stage: Stage, *command: str) -> str:
    done = subprocess.run(
        [Path(sys.executable).with_name("torpor"), *command],
        env={**os.environ, "TORPOR_HOME": str(stage.home.root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_frozen_tool_goes_on_as_a_person_decides(stage: Stage, start: Start) -> None:
    watch = start("clerk", orders=[1, 2, 3, 4])
    watch.until("run.suspended")
    assert stage.client.run(watch.run)["state"] == "suspended"
    assert '"order": 1' in torpor(stage, "waits", watch.run)
    torpor(stage, "approve", watch.run)
    watch.until("op.begin", lambda entry: entry["op"] == "permission:refund#2")
    watch.until("run.suspended")
    # It crosses a kill of the server, too, and the question stays.
    stage.kill()
    stage.start()
    assert '-  "order": 1' in torpor(stage, "waits", watch.run)
    torpor(stage, "deny", watch.run, "--note", "not twice")
    watch.until("op.begin", lambda entry: entry["op"] == "permission:refund#3")
    watch.until("run.suspended")
    torpor(stage, "approve", watch.run, "--for-run")
    ended = watch.ended()
    by = stage.client.waits(watch.run, all=True)[0]["by"]
    assert ended["result"] == [
        "order 1: 9.5 euros",
        f"{by}: not twice",
        "order 3: 9.5 euros",
        "order 4: 9.5 euros",
    ]
    assert watch.output() == "refunding 1\nrefunding 3\nrefunding 4\n"
    decided = [each["data"] for each in watch.entries if each["kind"] == "wait.completed"]
    assert [each.get("origin") for each in decided] == [*["the local socket"] * 3, None]
    assert decided[3]["remembered"] == decided[2]["wait"]


class Upstream(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.requests: list[tuple[str, str | None]] = []  # the path, and the credentials
        super().__init__(("127.0.0.1", PORT), Handler)


class Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, self.headers["authorization"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"done " + self.path.encode())

    def log_message(self, format: str, *args: object) -> None: ...


def test_a_request_goes_out_once_and_as_a_person_decides(stage: Stage, start: Start) -> None:
    """By the agent's rule, with a secret; and by the host's own, of which the agent's know nothing.
    The client's patience is shorter than a person's."""
    server, given = Upstream(), {"header": "Authorization: Bearer {}"}
    more = '[[ask]]\nhost = "watched.example"\n'
    with reachable(stage, server, HOSTS, more):
        stage.client.set_secret("ASKED_KEY", SECRET, hosts=["asked.example"], placement=given)
        urls = [f"https://{host}:{PORT}/{n}" for n, host in enumerate([HOSTS[0], *HOSTS])]
        watch = start("asking", urls=urls)
        watch.until("run.suspended")
        shown = torpor(stage, "waits", watch.run)
        assert f"POST https://asked.example:{PORT}/0" in shown and SECRET not in shown
        assert not server.requests
        torpor(stage, "approve", watch.run)
        watch.until("run.suspended")
        assert server.requests == [("/0", f"Bearer {SECRET}")]
        torpor(stage, "deny", watch.run, "--note", "not today")
        watch.until("run.suspended")
        assert len(server.requests) == 1
        assert "watched.example" in torpor(stage, "waits", watch.run)
        torpor(stage, "approve", watch.run)
        ended = watch.ended()
        stage.client.remove_secret("ASKED_KEY")
    first, denied, last = ended["result"]
    assert (first, last) == ([200, "done /0"], [200, "done /2"])
    assert denied[0] == 403 and "not today" in denied[1]
    assert server.requests[1:] == [("/2", None)]
    asked = [op.partition(":")[0] for op in watch.ops("op.begin")]
    assert asked.count("permission") == 3
