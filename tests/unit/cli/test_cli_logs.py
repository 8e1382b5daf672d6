"""`torpor logs`: what of a log is read, and what an agent printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import Result

from torpor.cli import logs
from torpor.cli.logs import Text, last_lines
from torpor.client import Client, Ended

Torpor = Callable[..., Result]

PRINTS = ["one\n", "two\nth", "ree\nfour\n", "five\nsix"]
PRINTED = "".join(PRINTS)


@pytest.fixture
def run(torpor: Torpor, agent: str, client: Client) -> str:
    steps = [["print", text] for text in PRINTS] + [["log", "noted"], ["return", 1]]
    done = torpor("run", agent, "-d", "--input", json.dumps({"script": steps}))
    found = str(done.stdout.strip())
    assert isinstance(list(client.follow(found))[-1], Ended)
    return found


def test_what_it_printed_is_as_it_was(torpor: Torpor, run: str) -> None:
    for options in (["--output"], ["-o", "-f"], ["--stream", "stdout"], ["-o", "-n", "99"]):
        done = torpor("logs", run, *options)
        assert (done.exit_code, done.stdout, done.stderr) == (0, PRINTED, ""), options
    assert torpor("logs", run, "--stream", "stderr").stdout == ""
    assert torpor("logs", run, "--stream", "none").exit_code == 2


@pytest.mark.parametrize(
    ("count", "end"),
    [(0, ""), (1, "six"), (2, "five\nsix"), (3, "four\nfive\nsix"), (4, "three\nfour\nfive\nsix")],
)
def test_its_last_lines(torpor: Torpor, run: str, count: int, end: str) -> None:
    for more in ([], ["-f"]):
        assert torpor("logs", run, "--output", "--tail", str(count), *more).stdout == end


def test_the_last_entries(torpor: Torpor, run: str, client: Client) -> None:
    whole = list(client.entries(run))
    for count in (0, 1, 3, 5, 1000):
        last = whole[-count:] if count else []
        done = torpor("logs", run, "--tail", str(count), "--json")
        assert json.loads(done.stdout) == last
        done = torpor("logs", run, "-n", str(count), "-f", "--json")
        assert [json.loads(line) for line in done.stdout.splitlines()] == last
        assert len(torpor("logs", run, "-n", str(count)).stdout.splitlines()) >= count % 1000
    outputs = [each for each in whole if each["kind"] == "output"]
    done = torpor("logs", run, "-o", "--tail", "2", "--json")
    assert json.loads(done.stdout) == outputs[-2:]


def test_what_is_not_older(torpor: Torpor, run: str, client: Client) -> None:
    whole = list(client.entries(run))
    for when in ("10m", "1h30m", "2020-01-01", "2020-01-01T00:00:00Z", str(9e7)):
        assert json.loads(torpor("logs", run, "--since", when, "--json").stdout) == whole, when
        assert torpor("logs", run, "--since", when, "--output").stdout == PRINTED
    assert torpor("logs", run, "--since", "2100-01-01").stdout == ""
    assert torpor("logs", run, "--since", "2100-01-01", "-f", "-o").stdout == ""
    for when in ("yesterday", "inf", "nan", ""):
        wrong = torpor("logs", run, "--since", when)
        assert (wrong.exit_code, f"{when!r} is neither" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("options", [(), ("--json",), ("--output",), ("--tail", "4")])
def test_who_follows_a_run_hears_it_as_it_comes(
    torpor: Torpor, agent: str, client: Client, program: list[str], options: tuple[str, ...]
) -> None:
    """Where a program reads, too."""
    steps = [["print", "here\n"], ["wait", "Go on?", None], ["print", "there\n"]]
    done = torpor("run", agent, "-d", "--input", json.dumps({"script": steps}))
    run = done.stdout.strip()
    while client.run(run)["state"] != "suspended":
        pass
    command = [*program, "logs", "-f", run, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
        assert following.stdout is not None
        before = ""
        while "here" not in before:
            line = following.stdout.readline()
            assert line, before
            before += line
        client.complete(client.waits(run)[0]["id"], data=1)
        rest = following.stdout.read()
    assert (following.returncode, "there" in rest) == (0, True)


def test_what_lies_beside_the_log_follows_it(
    torpor: Torpor, client: Client, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    beside = {"stdout": b"".join(b"out %d\n" % n for n in range(40_000)), "stderr": b"bad\nworse"}
    begins = {"stdout": len(PRINTED), "stderr": 0}
    asked: list[int] = []

    def entries(self: Client, ref: str, **which: Any) -> Iterator[dict[str, Any]]:
        yield from real(self, ref, **which)
        data = {"limit": 10, **begins}
        yield {"seq": 99, "at": 1.0, "kind": "output.beside", "op": None, "data": data}

    def output(self: Client, ref: str, stream: str, *, offset: int = 0) -> Iterator[bytes]:
        found = beside[stream][offset - begins[stream] :]
        asked.append(len(found))
        yield found

    real, real_run = Client.entries, Client.run
    shares = {name: {"kept": len(data)} for name, data in beside.items()}
    monkeypatch.setattr(Client, "entries", entries)
    monkeypatch.setattr(Client, "output", output)
    monkeypatch.setattr(Client, "run", lambda self, ref: real_run(self, ref) | {"output": shares})
    whole = torpor("logs", run, "--output")
    assert whole.stdout == PRINTED + beside["stdout"].decode()
    assert whole.stderr == "bad\nworse"
    asked.clear()
    last = torpor("logs", run, "--output", "--tail", "2")
    assert (last.stdout, last.stderr) == ("out 39998\nout 39999\n", "bad\nworse")
    assert sum(asked) < 2 * logs._TAIL_BYTES
    last = torpor("logs", run, "--stream", "stderr", "--tail", "3")
    assert (last.stdout, last.stderr) == ("", "bad\nworse")


@given(
    st.lists(
        st.tuples(st.sampled_from(["stdout", "stderr"]), st.text("ab\n", min_size=1)), max_size=8
    ),
    st.integers(0, 12),
)
def test_the_last_lines_are_the_end_of_what_was_printed(
    parts: list[tuple[str, str]], count: int
) -> None:
    texts = [Text(*part) for part in parts]
    lines = "".join(text for _, text in parts).splitlines(keepends=True)
    last = last_lines(texts, count)
    assert "".join(each.text for each in last) == "".join(
        lines[len(lines) - count :] if count < len(lines) else lines
    )
    assert [each.stream for each in last] == [each.stream for each in texts][
        len(texts) - len(last) :
    ]
