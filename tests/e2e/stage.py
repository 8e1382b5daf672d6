"""What the tests on real machines stand on: a server process that can be killed, and a model
whose answers the test holds back.

Nothing here sleeps to wait for something to have happened: `Watch` hears the run's log, and the
model knows when it is asked.
"""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from torpor.client import (
    Appended,
    Client,
    Ended,
    OnProgress,
    Unreachable,
    server_command,
    stop_server,
)
from torpor.core.home import Home

Entry = dict[str, Any]

_KEPT = ("images", "deps", "modules", "cache")

# Nothing takes this long; several test runs may share two cores, though.
DEADLINE_S = 120.0


class Model:
    """An OpenAI-like upstream. `say X` is answered at once, `hold X` once the test lets it, and
    `refuse X` is refused until the test lets it. `drip X` is streamed, from its second piece on
    once the test lets it."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.keys: defaultdict[str, list[str]] = defaultdict(list)  # Idempotency-Keys by question
        self.sent: dict[str, bytes] = {}  # bodies, by question
        self._changed = threading.Condition()
        self._let: set[str] = set()
        model = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                model._answer(self, body["messages"][-1]["content"])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _answer(self, handler: BaseHTTPRequestHandler, question: str) -> None:
        with self._changed:
            self.requests[question] += 1
            self.keys[question].append(handler.headers["idempotency-key"])
            number = self.requests[question]
            self._changed.notify_all()
            if question.startswith("hold "):
                self._changed.wait_for(lambda: question in self._let, DEADLINE_S)
            refused = question.startswith("refuse ") and question not in self._let
        content = f"answer {number} to {question}"
        if question.startswith("drip "):
            self._drip(handler, question, content)
            return
        body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.sent[question] = body
        try:
            handler.send_response(503 if refused else 200)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:  # who asked was killed meanwhile
            pass

    def _drip(self, handler: BaseHTTPRequestHandler, question: str, content: str) -> None:
        pieces = [
            b"data: " + json.dumps({"choices": [{"delta": {"content": word}}]}).encode() + b"\n\n"
            for word in content.split()
        ]
        self.sent[question] = b"".join(pieces)
        handler.send_response(200)
        handler.send_header("content-type", "text/event-stream")
        handler.end_headers()
        for number, piece in enumerate(pieces):
            if number == 1:
                with self._changed:
                    self._changed.wait_for(lambda: question in self._let, DEADLINE_S)
            handler.wfile.write(piece)
            handler.wfile.flush()

    def wait_asked(self, question: str, times: int = 1) -> None:
        with self._changed:
            in_time = self._changed.wait_for(lambda: self.requests[question] >= times, DEADLINE_S)
        assert in_time, f"{question!r} was asked {self.requests[question]} times, not {times}"

    def let(self, question: str) -> None:
        with self._changed:
            self._let.add(question)
            self._changed.notify_all()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def base_home() -> Home:
    """What is kept from one session of tests to the next: images and packages."""
    named = os.environ.get("TORPOR_TEST_HOME")
    root = Path(named) if named else Path(__file__).parents[2] / ".cache" / "test-home"
    return Home(root.absolute())


@contextmanager
def own_home(base: Home) -> Iterator[Home]:
    """A data directory that is gone afterwards, with the images and packages of `base`."""
    with tempfile.TemporaryDirectory(prefix="torpor-e2e-") as directory:
        root = Path(directory)
        for name in _KEPT:
            (root / name).symlink_to(base.create().root / name)
        yield Home(root).create()
    assert not root.exists()


class Server:
    """One data directory and the server process on it, which asks the model at `model_url`."""

    def __init__(self, home: Home, model_url: str) -> None:
        self.home = home
        self.client = Client(home)
        self._model_url = model_url
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def server_pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def start(self) -> None:
        """Start the server, wait until it answers."""
        model = {"OPENAI_BASE_URL": self._model_url, "OPENAI_API_KEY": "sk-e2e-1"}
        environment = os.environ | model
        with (self.home.run / "server.log").open("ab") as log:
            self._server = subprocess.Popen(
                server_command(self.home), stdout=log, stderr=log, env=environment
            )
        until = time.monotonic() + DEADLINE_S
        while True:
            try:
                self.client.health()
                return
            except Unreachable:
                assert self._server.poll() is None, self.log_end("server")
                assert time.monotonic() < until, self.log_end("server")
                time.sleep(0.02)

    def kill(self) -> None:
        """As a power cut would."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def stop(self) -> None:
        """As a person would. Its exit code is 0."""
        assert self._server is not None
        if self._server.poll() is None:
            self._server.terminate()
            assert self._server.wait(60) == 0, self.log_end("server")

    def down(self, hear: OnProgress) -> None:
        """As `torpor down` does."""
        assert self._server is not None
        stop_server(self.home, hear)
        assert self._server.wait(60) == 0, self.log_end("server")

    def clear(self) -> None:
        """Leave nothing behind, whatever has failed."""
        for pid in self.processes():
            end(pid)
        for line in self.mounts():
            _run("umount", "--lazy", line.split()[1])

    def log_end(self, name: str) -> str:
        path = self.home.run / f"{name}.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else "no log"

    def machine(self, run: str) -> int:
        """The pid of the machine of a run that is held at a question."""
        machine = self.client.run(run)["machine"]
        assert machine is not None and machine["pid"] is not None, machine
        pid: int = machine["pid"]
        assert "qemu" in command_of(pid)
        return pid

    def open_wait(self, run: str) -> Entry:
        (wait,) = self.client.waits(run)
        return wait

    def processes(self, name: str = "") -> list[int]:
        """Processes that have something of this data directory in their command, with `name`."""
        found = []
        for path in Path("/proc").iterdir():
            if path.name.isdigit() and int(path.name) != os.getpid():
                command = command_of(int(path.name))
                if str(self.home.root) in command and name in command:
                    found.append(int(path.name))
        return found

    def mounts(self) -> list[str]:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        return [line for line in mounts if str(self.home.root) in line.split()[1]]


class Stage(Server):
    """With the model of the tests here."""

    def __init__(self, home: Home, model: Model) -> None:
        super().__init__(home, model.url)
        self.model = model


def command_of(pid: int) -> str:
    """The command line of a process, empty when there is none (or it is a zombie)."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


class Watch:
    """A run's log, followed from its beginning, through deaths of the server."""

    def __init__(self, client: Client, run: str) -> None:
        self.run = run
        self.entries: list[Entry] = []
        self.state: str | None = None  # once it has ended
        self._client = client
        self._queue: queue.SimpleQueue[Appended | Ended] = queue.SimpleQueue()
        self._looked = 0
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        for each in self._client.follow(self.run):
            if isinstance(each, Appended | Ended):
                self._queue.put(each)

    def until(self, what: str, found: Callable[[Entry], bool] | None = None) -> Entry:
        """The next entry of kind `what` (that is `found`), after all that were given before."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            while self._looked < len(self.entries):
                entry = self.entries[self._looked]
                self._looked += 1
                if entry["kind"] == what and (found is None or found(entry)):
                    return entry
            assert self.state is None, f"no {what}; the run has ended:\n{self}"
            self._take(deadline, what)

    def ended(self) -> Entry:
        """The run, once it has ended."""
        deadline = time.monotonic() + DEADLINE_S
        while self.state is None:
            self._take(deadline, "end")
        return self._client.run(self.run)

    def _take(self, deadline: float, what: str) -> None:
        try:
            each = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise AssertionError(f"no {what} within {DEADLINE_S:g} s:\n{self}") from None
        if isinstance(each, Appended):
            self.entries.append(each.entry)
        else:
            self.state = each.state

    def count(self, kind: str) -> int:
        return sum(entry["kind"] == kind for entry in self.entries)

    def ops(self, kind: str) -> list[str]:
        return [entry["op"] for entry in self.entries if entry["kind"] == kind]

    def output(self) -> str:
        """All that the agent printed, as the log has it."""
        return "".join(e["data"]["text"] for e in self.entries if e["kind"] == "output")

    def __str__(self) -> str:
        shown = (f"{e['seq']} {e['epoch']} {e['kind']} {e['op'] or ''}" for e in self.entries[-60:])
        data = (json.dumps(e["data"])[:160] for e in self.entries[-60:])
        return "\n".join(f"{one} {two}" for one, two in zip(shown, data, strict=True))


@contextmanager
def little_room(directory: Path, free_bytes: int) -> Iterator[Path]:
    """`directory` on a small file system, with a file on it whose removal makes room.

    What is in it stays, and what comes into it meanwhile is kept.
    """
    below = directory.with_name(directory.name + ".below")
    below.mkdir()
    _run("mount", "--bind", str(directory), str(below))
    try:
        used = sum(path.stat().st_blocks * 512 for path in below.rglob("*"))
        ballast_bytes = 64 << 20
        size = used + ballast_bytes + free_bytes + (8 << 20)  # a file's last page, directories
        _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(directory))
        try:
            _run("cp", "-a", f"{below}/.", str(directory))
            ballast = directory / "ballast"
            with ballast.open("wb") as file:
                statvfs = os.fstatvfs(file.fileno())
                file.write(bytes(statvfs.f_bavail * statvfs.f_frsize - free_bytes))
            yield ballast
            _run("cp", "-a", "--no-clobber", f"{directory}/.", str(below))
        finally:
            _run("umount", "--lazy", str(directory))
    finally:
        _run("umount", str(below))
        below.rmdir()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def end(pid: int) -> None:
    """kill -9, and wait until it is gone; perhaps it was already."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        os.kill(pid, signal.SIGKILL)
        gone = _readable(fd, DEADLINE_S)
    finally:
        os.close(fd)
    assert gone, f"process {pid} survives kill -9"


def wait_gone(pid: int) -> None:
    """Until the process is gone by itself."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        gone = _readable(fd, DEADLINE_S)
    finally:
        os.close(fd)
    assert gone, f"process {pid} lives: {command_of(pid)}"


def _readable(fd: int, within_s: float) -> bool:
    return bool(select.select([fd], [], [], within_s)[0])
