"""exec and shell, with real commands of a real server, from a pipe and in a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.stage import wait_gone
from tests.unit.cli.test_cli_terminal import CTRL_C, Terminal

from torpor.client import Client
from torpor.core.home import Home
from torpor.testing.fakes.service import VERSION

if TYPE_CHECKING:
    from tests.unit.cli.conftest import Torpor

LIMIT_S = 30


@pytest.fixture
def run(client: Client) -> str:
    waits = {"script": [["wait", "go on?", None], ["return", 1]]}
    return str(client.start(VERSION, None, waits, None)["id"])


@contextmanager
def terminal(program: list[str], home: Home, *arguments: str) -> Iterator[Terminal]:
    made = Terminal([*program, *arguments], home)
    try:
        yield made
    finally:
        made.close()


def piped(program: list[str], home: Home, *arguments: str, input: bytes = b"") -> Any:
    environment = {**os.environ, "TORPOR_HOME": str(home.root)}
    return subprocess.run(
        [*program, *arguments],
        input=input,
        capture_output=True,
        env=environment,
        timeout=LIMIT_S,
        check=False,
    )


def test_exit_codes_streams_and_input(program: list[str], home: Home, run: str) -> None:
    script = 'echo "$1" $MINE; cat; echo no >&2; exit 3'
    done = piped(
        *(program, home, "exec", "-e", "MINE=m", run, "--", "sh", "-c", script, "x", "-i a"),
        input=bytes(range(256)) * 1000,
    )
    assert done.returncode == 3 and done.stderr == b"no\n"
    assert done.stdout == b"-i a m\n" + bytes(range(256)) * 1000
    killed = piped(program, home, "exec", run, "sh", "-c", "kill -9 $$")
    assert killed.returncode == 128 + 9
    missing = piped(program, home, "exec", run, "no-such-program")
    assert missing.returncode == 127 and b"error: no-such-program: No such file" in missing.stderr
    nobody = piped(program, home, "exec", "run_none", "true")
    assert nobody.returncode == 125 and b"no run" in nobody.stderr


def test_a_terminal_of_its_own_without_one_here(program: list[str], home: Home, run: str) -> None:
    done = piped(program, home, "exec", "-t", run, "--", "sh", "-c", "test -t 1 && echo yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"yes\r\n", b"")


def test_what_is_typed_wrong(torpor: Torpor, run: str) -> None:
    for arguments, says in (
        (["exec", run], "COMMAND"),
        (["exec", run, "-it", "sh"], "options go before RUN"),
        (["exec", run, "--"], "a command after it"),
        (["exec", "-u", "me", run, "true"], "neither agent nor root"),
        (["exec", "-e", "A B=1", run, "true"], "no name"),
        (["exec", "-it", run, "true"], "-t needs a terminal"),
    ):
        done = torpor(*arguments)
        assert done.exit_code == 2 and says in " ".join(done.output.split()), done.output


def test_whoever_reads_it_may_leave(program: list[str], home: Home, run: str) -> None:
    environment = {**os.environ, "TORPOR_HOME": str(home.root)}
    command = [*program, "exec", run, "sh", "-c", "echo $$; exec yes"]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        pid = int(process.stdout.readline())
        process.stdout.close()
        assert process.wait(LIMIT_S) == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""
    wait_gone(pid)


def test_an_interrupt_is_the_commands(program: list[str], home: Home, run: str) -> None:
    script = "trap 'echo caught; exit 4' INT; echo up; while :; do sleep 0.1; done"
    with terminal(program, home, "exec", run, "sh", "-c", script) as shown:
        shown.expect("up")
        shown.type(CTRL_C)
        shown.expect("caught")
        assert shown.exit_code() == 4
    stubborn = "trap '' INT; echo up $$; while :; do sleep 0.1; done"
    with terminal(program, home, "exec", run, "sh", "-c", stubborn) as shown:
        shown.expect("up ")
        shown.expect("\n")
        pid = int(shown.text.split("up ")[1].split()[0])
        while shown.is_running():  # the second that it hears; two at once are one signal
            shown.type(CTRL_C)
        assert shown.exit_code() in (130, -signal.SIGINT)  # a third may come as it leaves
    wait_gone(pid)


def test_a_shell_in_a_terminal(program: list[str], home: Home, run: str) -> None:
    with terminal(program, home, "shell", run) as shown:
        prompt = f"player-{run[-6:]}"
        shown.expect(prompt)
        shown.type("stty size; echo at-$((40 + 2))\r")
        shown.expect("40 160", "at-42", prompt)
        assert not shown.is_as_before()
        # Not before it runs: until then a Ctrl-C is the shell's, and nothing ends the sleep.
        shown.type("sh -c 'echo at-$((41 + 2)); sleep 1000'\r")
        shown.expect("at-43")
        shown.type(CTRL_C)
        shown.expect("^C", prompt)
        shown.type("exit 6\r")
        assert shown.exit_code() == 6
        assert shown.is_as_before()


def test_a_shell_from_a_pipe(program: list[str], home: Home, run: str) -> None:
    done = piped(program, home, "shell", run, input=b"echo here; exit 2\n")
    assert done.returncode == 2 and done.stdout == b"here\n"
