"""How commands end: their exit codes, and their errors in words and as JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from torpor.cli.exits import MEANINGS, Exit, of_error
from torpor.client import Client, Unreachable
from torpor.core import errors

ROOT = Path(__file__).parents[3]

Torpor = Callable[..., Result]

WRONG: list[tuple[list[str], Exit, str, str]] = [
    ([], Exit.REFUSED, "", ""),
    (["pss"], Exit.REFUSED, "No such command 'pss'. Did you mean 'ps'?", "See: torpor --help"),
    (["show"], Exit.REFUSED, "Missing argument 'RUN'", "See: torpor show --help"),
    (["show", "run_none"], Exit.REFUSED, "no run", ""),
    (["show", ""], Exit.REFUSED, "'' is not an id or a name", ""),
    (["logs", " "], Exit.REFUSED, "' ' is not an id or a name", ""),
    (["complete", "", "--data", "1"], Exit.REFUSED, "'' is not an id or a name", ""),
    (["ps", "--status", "lost"], Exit.REFUSED, "Invalid value for '--status'", "torpor ps --help"),
    (["ps", "--colour"], Exit.REFUSED, "No such option: --colour", "See: torpor ps --help"),
    (["run", "none.py"], Exit.REFUSED, "none.py", ""),
    (["run", ""], Exit.REFUSED, "AGENT is empty", ""),
    (["waits", ""], Exit.REFUSED, "'' is not an id or a name", ""),
    (["delete", "", "-y"], Exit.REFUSED, "'' is not an id or a name", ""),
    (["agents", "retire", ""], Exit.REFUSED, "'' is not an id or a name", ""),
    (["run", "nobody"], Exit.REFUSED, "no agent", ""),
    (["run", "a:b:c:"], Exit.REFUSED, "is not AGENT.py", ""),
    (["import", "none.torpor"], Exit.REFUSED, "there is no file none.torpor", ""),
    (["query", "@none.sql"], Exit.REFUSED, "none.sql", ""),
    (["query", "selec 1"], Exit.REFUSED, "syntax error", ""),
    (["top", "--interval", "x"], Exit.REFUSED, "'--interval': it should be a valid number", ""),
    (["logs", "r", "-n", "x"], Exit.REFUSED, "'-n': it should be a valid integer", "torpor logs"),
    (["up", "--engine", "x"], Exit.REFUSED, "'--engine': 'x' is not one of 'qemu', 'process'", ""),
    (["queues", "set"], Exit.REFUSED, "Missing argument 'QUEUE'", "See: torpor queues set --help"),
]


def test_the_table_is_in_the_docs_and_in_the_help(torpor: Torpor) -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = dict(re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE))
    assert rows == {str(int(code)): text for code, text in MEANINGS.items()}
    assert set(MEANINGS) == set(Exit)
    shown = " ".join(torpor("--help", env={"COLUMNS": "200"}).stdout.split())
    assert all(f"{int(code)} {text}" in shown for code, text in MEANINGS.items())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NotFound("x"), Exit.REFUSED),
        (errors.Conflict("x"), Exit.REFUSED),
        (errors.Forbidden("x"), Exit.REFUSED),
        (errors.Missing("x"), Exit.UNAVAILABLE),
        (errors.Exhausted("x"), Exit.UNAVAILABLE),
        (Unreachable("x"), Exit.UNAVAILABLE),
        (errors.GuestError("x"), Exit.FAILED),
        (errors.Damaged("x"), Exit.BROKEN),
        (errors.InternalError("x"), Exit.BROKEN),
    ],
    ids=lambda each: getattr(each, "code", ""),
)
def test_each_kind_of_error_has_its_code(error: errors.TorporError, code: Exit) -> None:
    assert of_error(error) is code


@pytest.mark.parametrize(("args", "code", "says", "hint"), WRONG)
def test_an_error_is_one_line_and_a_hint(
    torpor: Torpor, args: list[str], code: Exit, says: str, hint: str
) -> None:
    done = torpor(*args)
    assert done.exit_code == code
    if says:
        lines = done.stderr.splitlines()
        assert done.stdout == ""
        assert lines[0].startswith("error: ") and says in lines[0]
        assert hint in "\n".join(lines[1:])
        assert len(lines) <= 2


@pytest.mark.parametrize(
    ("args", "code", "says", "hint"), WRONG[1:], ids=lambda each: str(each)[:40]
)
def test_with_json_it_is_a_document(
    torpor: Torpor, args: list[str], code: Exit, says: str, hint: str
) -> None:
    done = torpor(*args, "--json")
    assert (done.exit_code, done.stdout) == (code, "")
    problem = json.loads(done.stderr)["error"]
    assert says in problem["detail"]
    assert hint in problem["hint"]
    assert problem["type"] == f"urn:torpor:problem:{problem['code']}"
    assert problem["title"]


def test_without_a_server(torpor: Torpor, tmp_path: Path) -> None:
    for command in (["ps"], ["show", "run_1"], ["logs", "run_1"], ["waits"], ["cancel", "run_1"]):
        done = torpor(*command, "--json", env={"TORPOR_HOME": str(tmp_path)})
        assert done.exit_code == Exit.UNAVAILABLE
        problem = json.loads(done.stderr)["error"]
        assert problem["code"] == "unreachable"
        assert problem["hint"] == "Start it with: torpor up"


def test_json_after_two_dashes_is_not_for_us(torpor: Torpor) -> None:
    done = torpor("show", "--", "--json")
    assert done.stderr.startswith("error: ")


def test_who_reads_the_output_may_leave(client: Client, program: list[str]) -> None:
    """`torpor ps | head -0`: no traceback, and the code of a broken pipe."""
    for command in (["ps", "--json"], ["waits", "--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        try:
            done = subprocess.run(
                [*program, *command], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
            )
        finally:
            os.close(writing)
        assert (done.returncode, done.stderr) == (Exit.UNREAD, ""), command
