"""`torpor run` in a real (pseudo) terminal: a person at the keyboard."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torpor.client import Client, Ended
from torpor.core.home import Home

LIMIT_S = 30
_STEERING = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CTRL_C, CTRL_U = "\x03", "\x15"
CHOICES = "[d]etach"


class Terminal:
    """A program with a terminal of its own: what it shows, what is typed."""

    def __init__(self, command: list[str], home: Home) -> None:
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
        self._before = termios.tcgetattr(self._slave)
        self._seen = 0
        self.raw = ""
        self._process = subprocess.Popen(
            command,
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**os.environ, "TORPOR_HOME": str(home.root), "TERM": "xterm-256color"},
            # Its own session, whose terminal this is: Ctrl-C then comes as it does for people.
            preexec_fn=self._take_terminal,
            start_new_session=True,
        )

    def _take_terminal(self) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whatever started the tests may ignore it

    @property
    def text(self) -> str:
        return _STEERING.sub("", self.raw)

    def expect(self, *wanted: str) -> None:
        """Wait until each has been shown after what was expected before."""
        until = time.monotonic() + LIMIT_S
        for part in wanted:
            while (at := self.text.find(part, self._seen)) < 0:
                assert time.monotonic() < until, f"no {part!r} in:\n{self.text[self._seen :]}"
                assert self._read(), f"no {part!r} before the end:\n{self.text[self._seen :]}"
            self._seen = at + len(part)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def is_running(self) -> bool:
        """And takes in what it shows."""
        return self._read() and self._process.poll() is None

    def exit_code(self) -> int:
        while self._process.poll() is None:
            self._read()
        while self._read():
            pass
        return self._process.returncode

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._slave) == self._before

    def open_files(self) -> int:
        """How many the program has."""
        return len(list(Path(f"/proc/{self._process.pid}/fd").iterdir()))

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> bool:
        ended = self._process.poll() is not None
        ready, _, _ = select.select([self._master], [], [], 0.1)
        if ready:
            self.raw += os.read(self._master, 65536).decode(errors="replace")
        return bool(ready) or not ended


@contextmanager
def running(program: list[str], home: Home, agent: str, *steps: Any) -> Iterator[Terminal]:
    script = json.dumps({"script": steps})
    terminal = Terminal([*program, "run", agent, "--input", script], home)
    try:
        yield terminal
    finally:
        terminal.close()


def newest(client: Client) -> str:
    return str(client.runs(limit=1)[0]["id"])


def test_a_question_is_asked_and_answered(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    steps = (
        ["print", "working\n"],
        ["approve", "Send [red]it\x1b[2J?", {"notes": [1, 2]}],
        ["wait", "How many?", None],
        ["return", "sent"],
    )
    with running(program, home, agent, *steps) as terminal:
        terminal.expect("working", "asleep: waiting for approval", "1.2 MB", "0 processes")
        terminal.expect("? Send [red]it", "notes: [1, 2]", CHOICES)
        assert "\x1b[2J" not in terminal.raw
        terminal.type("xe")
        terminal.expect("note")
        terminal.type("fime\x7f\x7fne\x1b[D\r")
        terminal.expect("note: fine", CHOICES)
        terminal.type("n")
        terminal.expect("denied by", "fine", "awake in 120 ms")
        # A refused answer is explained, and the question stays.
        terminal.expect("How many?")
        terminal.type("\r")
        terminal.expect("Type an answer first")
        terminal.type("refused\r")
        terminal.expect("takes anything but 'refused'")
        terminal.type(f"{CTRL_U}three")
        terminal.expect("three")
        terminal.type(f"{CTRL_U}[3]\r")
        terminal.expect("answered by", "sent", "completed · ran")
        assert terminal.exit_code() == 0
        assert terminal.is_as_before()
    values = [wait["value"] for wait in client.waits(newest(client), all=True)]
    assert [(v["approved"], v["note"], v["data"]) for v in values] == [
        (False, "fine", None),
        (None, None, [3]),
    ]


def test_answered_elsewhere_the_question_goes_away(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    steps = (["approve", "Go on?", None], ["print", "went on\n"], ["fail", "ValueError", "enough"])
    with running(program, home, agent, *steps) as terminal:
        terminal.expect("Go on?", CHOICES)
        asked = len(terminal.raw)
        [wait] = client.waits(newest(client))
        client.complete(wait["id"], approved=True, by="ana", note="from afar")
        terminal.expect("Go on?: approved by ana: from afar")
        assert "\x1b[2K" in terminal.raw[asked:]  # its lines were erased
        terminal.expect("went on", "agent.py, line 1", "failed: ValueError: enough")
        assert terminal.exit_code() == 1
        assert terminal.is_as_before()
        assert CHOICES not in _STEERING.sub("", terminal.raw[asked:]).split("approved by ana")[1]


# It says when it has looked why nothing happens.
_IMPATIENT = """
from torpor.cli import attach
from torpor.cli.main import main

look = attach.Follower._say_why

def say_why(self):
    look(self)
    self._remark("looked")

attach._PATIENCE_S, attach.Follower._say_why = 0.01, say_why
main()
"""


def test_a_question_that_has_been_open_for_long_goes_away_too(
    home: Home, agent: str, client: Client
) -> None:
    steps = (["approve", "Go on?", None], ["emit", {"assistant": "Yes\x07?"}], ["return", "done"])
    with running([sys.executable, "-c", _IMPATIENT], home, agent, *steps) as terminal:
        terminal.expect("Go on?", CHOICES, "looked", CHOICES)
        [wait] = client.waits(newest(client))
        client.complete(wait["id"], approved=True, by="ana")
        terminal.expect("Go on?: approved by ana")
        terminal.expect("assistant: Yes\N{REPLACEMENT CHARACTER}?", "done")
        assert terminal.exit_code() == 0


def test_a_schema_is_a_form(program: list[str], home: Home, agent: str, client: Client) -> None:
    due = {"type": "string", "format": "date", "description": "when it is paid"}
    schema = {"type": "object", "properties": {"id": {"type": "integer"}, "due": due}}
    schema["required"] = ["id", "due"]
    steps = (["wait", "Fix it", None, schema], ["return", "done"])
    with running(program, home, agent, *steps) as terminal:
        terminal.expect("? Fix it", "id, a whole number")
        terminal.type("seven\r")
        terminal.expect("'seven' is not a number")
        terminal.type(f"{CTRL_U}7\r")
        terminal.expect("id: 7", "due, date, YYYY-MM-DD (when it is paid)")
        terminal.type("2026-12-01\r")
        terminal.expect("answered by", "done")
        assert terminal.exit_code() == 0
    [wait] = client.waits(newest(client), all=True)
    assert wait["value"]["data"] == {"id": 7, "due": "2026-12-01"}


def test_a_run_that_gets_no_machine_says_why(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    with running(program, home, agent, ["queued", "queue mail is paused"]) as terminal:
        terminal.expect("run_", "waits for a machine: queue mail is paused")
        terminal.type(CTRL_C)
        terminal.expect("detached; the run goes on")
        assert terminal.exit_code() == 130


def test_leaving_does_not_harm_the_run(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    for key, code in ((CTRL_C, 130), ("d", 0)):
        with running(program, home, agent, ["approve", "Go on?", None], ["return", 1]) as terminal:
            terminal.expect("Go on?", CHOICES)
            terminal.type(key)
            terminal.expect("detached; the run goes on: torpor attach run_")
            assert terminal.exit_code() == code
            assert terminal.is_as_before()
            assert "Traceback" not in terminal.text
        run = newest(client)
        [wait] = client.waits(run)
        client.complete(wait["id"], approved=True)
        assert list(client.follow(run))[-1] == Ended("completed")


def test_ctrl_c_while_it_loads_is_no_crash(tmp_path: Path) -> None:
    # Whatever is loaded first is interrupted.
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    code = "from torpor.cli.entry import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@contextmanager
def attached(program: list[str], home: Home, run: str, *options: str) -> Iterator[Terminal]:
    terminal = Terminal([*program, "attach", run, *options], home)
    try:
        yield terminal
    finally:
        terminal.close()


def asleep(program: list[str], home: Home, agent: str, client: Client, *steps: Any) -> str:
    command = [*program, "run", "-d", agent, "--input", json.dumps({"script": steps})]
    env = {**os.environ, "TORPOR_HOME": str(home.root)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    run = done.stdout.strip()
    while client.run(run)["state"] != "suspended":
        pass
    return run


def test_attaching_asks_what_is_open_and_shows_what_comes(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    steps = (["print", "before\n"], ["approve", "Sure?", None], ["print", "after\n"], ["return", 7])
    run = asleep(program, home, agent, client, *steps)
    with attached(program, home, run) as terminal:
        terminal.expect(f"{run} is suspended: waiting for approval: Sure?", "? Sure?", CHOICES)
        terminal.type("y")
        terminal.expect("approved by", "after", "7", "completed · ran")
        assert terminal.exit_code() == 0
        assert "before" not in terminal.raw
    with attached(program, home, run) as terminal:  # it has ended
        terminal.expect("7", "completed · ran")
        assert terminal.exit_code() == 0
        assert "after" not in terminal.raw
    with attached(program, home, run, "--all") as terminal:
        terminal.expect("before", "after", "7", "completed · ran")
        assert terminal.exit_code() == 0


def test_what_is_asleep_under_calls_says_whose_answer_it_waits_for(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    ops = ("model:/v1/chat/completions@0123abcd#1", "http:api.example.com/v1/pay@0123abcd#1")
    run = asleep(program, home, agent, client, ["asleep", *ops])
    for options, shown in (
        ((), f"{run} is suspended: waiting for the model's answer and 1 more"),
        (("--all",), "asleep: waiting for the model's answer and 1 more"),
    ):
        with attached(program, home, run, *options) as terminal:
            terminal.expect(shown)
    client.cancel(run)


def test_leaving_what_one_attached_to_leaves_it_running(
    program: list[str], home: Home, agent: str, client: Client
) -> None:
    run = asleep(program, home, agent, client, ["approve", "Sure?", None], ["fail", "Oh", "no"])
    with attached(program, home, run) as terminal:
        terminal.expect("? Sure?", CHOICES)
        terminal.type("\x03")
        terminal.expect(f"detached; the run goes on: torpor attach {run}")
        assert terminal.exit_code() == 130
        assert terminal.is_as_before()
    assert client.run(run)["state"] == "suspended"
    with attached(program, home, run) as terminal:
        terminal.expect("? Sure?", CHOICES)
        client.complete(client.waits(run)[0]["id"], approved=False)
        terminal.expect("denied", "failed: Oh: no")
        assert terminal.exit_code() == 1
    cancelled = asleep(program, home, agent, client, ["approve", "Sure?", None])
    with attached(program, home, cancelled) as terminal:
        terminal.expect("? Sure?", CHOICES)
        client.cancel(cancelled)
        terminal.expect("cancelled")
        assert terminal.exit_code() == 4
