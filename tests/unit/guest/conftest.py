"""The host's side of a supervisor that runs as an ordinary process: real supervisor, real agent
process, real link over a socket pair; only the machine around them is missing."""

from __future__ import annotations

import io
import os
import select
import socket
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import torpor
from torpor.wire import messages
from torpor.wire.link import CONTROL, FILES, STDERR, STDOUT, STREAMS, Link
from torpor.wire.streams import FROM_GUEST, Frame
from torpor.wire.streams import decode as decode_frame

SOURCE = Path(torpor.__file__).parent.parent
CGROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
PATIENCE_S = 20.0  # a test that waits longer has failed


def tar(files: Mapping[str, str]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return out.getvalue()


class Driver:
    """Speaks to one supervisor. `log` is every message it said, `out` and `err` the agent's
    output so far. Operations that the host answers are answered by `answer`, if it is set: given
    a `begin` it returns the value, or an exception for a failure, or ... for no answer yet."""

    def __init__(
        self, directory: Path, cgroup: Path | None = None, around: Sequence[str] = ()
    ) -> None:
        """`around` goes before the supervisor's command, which then has a network."""
        self.directory = directory
        self.log: list[dict[str, Any]] = []
        self.frames: list[Frame] = []
        self.certify: Callable[[dict[str, Any]], None] | None = None
        self.network: Callable[[Frame], None] | None = None  # what answers streams
        self.out = b""
        self.err = b""
        self.answer: Callable[[dict[str, Any]], Any] | None = None
        self.record = True  # ends are confirmed with `recorded`
        self.go_on = False  # the verdict on a divergence
        self.link = Link()
        self._heard = 0  # messages of the log that `hear` has passed
        self._errors = (directory / "supervisor.stderr").open("w+b")
        ours, theirs = socket.socketpair()
        self.socket = ours
        command = [*around, sys.executable, "-S", "-E", "-m", "torpor.guest"]
        command += ["--fd", str(theirs.fileno()), "--dir", str(directory)]
        command += ["--cgroup", str(cgroup)] if cgroup is not None else []
        command += ["--network", "yes"] if around else []
        self.process = subprocess.Popen(
            command, cwd=SOURCE, pass_fds=[theirs.fileno()], stderr=self._errors
        )
        theirs.close()
        self.link.sync()
        self.flush()

    def complaints(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode()

    def close(self) -> None:
        self.socket.close()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._errors.close()

    # ---- talking ----

    def flush(self) -> None:
        self.socket.sendall(self.link.data_to_send())

    def say(self, t: str, **fields: Any) -> None:
        self.link.send(CONTROL, messages.encode(t, **fields))
        self.flush()

    def send_files(self, files: Mapping[str, str]) -> None:
        self.link.send(FILES, tar(files))
        self.flush()

    def pump(self, within_s: float, *, acknowledge: bool = True) -> bool:
        """Take in what comes; False when nothing did."""
        if not select.select([self.socket], [], [], within_s)[0]:
            return False
        data = self.socket.recv(1 << 20)
        if not data:
            raise AssertionError(f"the supervisor ended: {self.complaints()}")
        for received in self.link.receive(data):
            if received.channel == STDOUT:
                self.out += received.message
            elif received.channel == STDERR:
                self.err += received.message
            elif received.channel == STREAMS:
                self._take_frame(decode_frame(received.message, FROM_GUEST))
            else:
                self._react(messages.decode(received.message, messages.FROM_GUEST))
        if acknowledge:
            self.flush()
        return True

    def _take_frame(self, frame: Frame) -> None:
        self.frames.append(frame)
        if self.network is not None:
            self.network(frame)

    def pass_on(self, frame: bytes) -> None:
        self.link.send(STREAMS, frame)
        self.flush()

    def _react(self, message: dict[str, Any]) -> None:
        self.log.append(message)
        if message["t"] == "certificate" and self.certify is not None:
            self.certify(message)
        for each in message["begins"] if message["t"] == "batch" else ():
            self._answer(each)
        if message["t"] == "end" and self.record:
            if message["op"].startswith(("artifact:", "file:")) and "blob" in message:
                blob = message["blob"] | {"digest": "0" * 64}
                self.say("result", op=message["op"], ok=True, blob=blob)
            else:
                self.say("recorded", op=message["op"])
        if message["t"] == "begin" and message["kind"] == "verdict":
            self.say("result", op=message["op"], ok=True, value={"go_on": self.go_on})
            return
        if message["t"] == "begin" and message["kind"] not in (
            *("step", "read", "context", "artifact", "file"),
        ):
            self._answer(message)

    def _answer(self, message: dict[str, Any]) -> None:
        if self.answer is not None:
            value = self.answer(message)
            if isinstance(value, Exception):
                error = messages.error(type(value).__name__, str(value))
                self.say("result", op=message["op"], ok=False, error=error)
            elif value is not ...:
                self.say("result", op=message["op"], ok=True, value=value)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self.pump(left_s):
                raise AssertionError(
                    f"waited in vain\nlog: {self.log}\nout: {self.out!r}\nerr: {self.err.decode()}"
                    f"\nsupervisor: {self.complaints()}"
                )

    def hear(self, *types: str, **fields: Any) -> dict[str, Any]:
        """The next message of one of `types` with these fields, after the one heard last."""
        found: list[dict[str, Any]] = []

        def look() -> bool:
            for place in range(self._heard, len(self.log)):
                message = self.log[place]
                if message["t"] in types and fields.items() <= message.items():
                    self._heard = place + 1
                    found.append(message)
                    return True
            return False

        self.until(look)
        return found[0]

    def said(self, t: str, **fields: Any) -> list[dict[str, Any]]:
        return [each for each in self.log if each["t"] == t and fields.items() <= each.items()]

    # ---- the course of a run ----

    def load(self, source: str, **more: str) -> dict[str, Any]:
        files = {"agent.py": textwrap.dedent(source)}
        files |= {f"{name}.py": textwrap.dedent(text) for name, text in more.items()}
        self.send_files(files)
        self.say("load", entry="agent.py", deps=False, version="v1")
        return self.hear("loaded", "load_failed", "exited")

    def start(self, agent: str | None = None, journal: Any = (), **given: Any) -> None:
        self.say("start", run="run_1", epoch=1, agent=agent, input=given, journal=list(journal))

    def run(self, source: str, journal: Any = (), **given: Any) -> dict[str, Any]:
        """Load, start, and how it ended."""
        loaded = self.load(source)
        assert loaded["t"] == "loaded", loaded
        self.start(journal=journal, **given)
        return self.hear("done", "failed", "exited")

    def value(self, source: str, journal: Any = (), **given: Any) -> Any:
        ended = self.run(source, journal, **given)
        assert ended["t"] == "done", ended
        return ended["value"]

    def thaw(self, epoch: int = 2, journal: Any = ()) -> None:
        self.say(
            "thaw",
            epoch=epoch,
            run="run_1",
            time=time.time(),
            entropy=os.urandom(64).hex(),
            started=True,
            journal=list(journal),
        )

    def journal(self) -> list[dict[str, Any]]:
        """What a log that got all this would hold, as records for a replay."""
        records = {
            each["op"]: identity(each) for each in self.said("begin") if each["kind"] != "verdict"
        }
        for ended in self.said("end"):
            outcome: dict[str, Any] = {
                k: ended[k] for k in ("ok", "value", "error", "blob") if k in ended
            }
            records[ended["op"]] |= outcome
        return list(records.values())


def identity(begin: Mapping[str, Any]) -> dict[str, Any]:
    keys = ("op", "kind", "name", "digest", "at", "side", "hint")
    return {key: begin[key] for key in keys if key in begin}


def record(begin: Mapping[str, Any], value: Any) -> dict[str, Any]:
    """The log's record of the operation that `begin` began, with its result."""
    return identity(begin) | {"ok": True, "value": value}


@pytest.fixture(name="record")
def _record() -> Callable[[Mapping[str, Any], Any], dict[str, Any]]:
    return record


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Makes drivers, and ends them."""
    made: list[Driver] = []

    def make(cgroup: Path | None = None) -> Driver:
        directory = tmp_path / f"guest{len(made)}"
        directory.mkdir()
        made.append(Driver(directory, cgroup))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def driver(drive: Callable[..., Driver]) -> Driver:
    return drive()


def _empty(cgroup: Path) -> None:
    (cgroup / "cgroup.kill").write_text("1")
    with (cgroup / "cgroup.events").open() as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)
        while "populated 1" in os.pread(events.fileno(), 4096, 0).decode():
            changed.poll(PATIENCE_S * 1000)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A control group of its own, on a version 2 hierarchy that can freeze."""
    for root in CGROUPS:
        path = root / f"torpor-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        if (path / "cgroup.freeze").exists():
            yield path
            _empty(path)
            for each in (*path.glob("*/"), path):
                each.rmdir()
            return
        path.rmdir()
    pytest.skip("no writable cgroup version 2 hierarchy here")
