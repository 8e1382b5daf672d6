"""`torpor top`, and what a shell is offered."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from rich.console import Console
from tests.unit.cli.conftest import Torpor

from torpor.cli import complete, top
from torpor.client import Appended, Client
from torpor.testing.fakes.service import VERSION

Object = dict[str, object]


@pytest.fixture
def waiting(client: Client) -> Iterator[str]:
    """A run that waits."""
    script = {"script": [["approve", "Paint: the house?", None], ["return", 1]]}
    run = client.start(VERSION, None, script, None)["id"]
    for event in client.follow(run):
        if isinstance(event, Appended) and event.entry["kind"] == "run.suspended":
            break
    yield run
    client.cancel(run)


def test_what_is_going_on(torpor: Torpor, waiting: str) -> None:
    shown = torpor("top", "--once")
    assert shown.exit_code == 0
    assert waiting in shown.stdout and "approval: Paint: the house?" in shown.stdout
    assert "suspended" in shown.stdout and "open" in shown.stdout.splitlines()[0]
    assert "608 of 4,096 MiB taken" in shown.stdout
    found = json.loads(torpor("top", "--json").stdout)
    assert waiting in [run["id"] for run in found["runs"]]


@pytest.mark.parametrize(
    ("op", "text"),
    [
        ("model:/v1/chat/completions@0123abcd#1", "the model's answer"),
        ("model:api.openai.com/v1/responses@0123abcd#2", "the model's answer"),
        ("http:api.example.com/v1/pay@0123abcd#1", "an answer from api.example.com"),
    ],
)
def test_what_is_asleep_under_a_call_waits_for_its_answer(
    torpor: Torpor, client: Client, op: str, text: str
) -> None:
    run = client.start(VERSION, None, {"script": [["asleep", op]]}, None)["id"]
    for event in client.follow(run):
        if isinstance(event, Appended) and event.entry["kind"] == "run.suspended":
            break
    for command in (("ps",), ("top", "--once"), ("show", run)):
        assert text in " ".join(torpor(*command).stdout.split()), command
    client.cancel(run)
    assert text not in torpor("show", run).stdout


def run(id: str, state: str, since: float) -> Object:
    return {
        "id": id,
        "agent": "a",
        "state": state,
        "state_since": since,
        "ran_s": 1.0,
        "slept_s": 0.0,
    }


def test_what_does_not_fit_is_cut() -> None:
    totals = {"runs": {"running": 9}, "waits_open": 0, "snapshots": 0, "snapshot_bytes": 0}
    totals |= {"memory_mib": None, "memory_taken_mib": None}
    runs = [run(f"run_{n}", "running", 10.0) for n in range(9)]
    console = Console(width=100)
    with console.capture() as capture:
        found = {"totals": totals, "runs": runs, "waits": []}
        console.print(top.frame(found, 20.0, rows_max=3, remark="gone"))
    lines = capture.get().splitlines()
    assert len(lines) == 6 and "9 running" in lines[0] and "gone" in lines[0]
    assert lines[3].split()[:5] == ["run_0", "a", "running", "10.0", "s"]


def test_ids_are_completed(client: Client, waiting: str, program: list[str]) -> None:
    assert (waiting, "player suspended") in complete.runs(waiting[:8])
    assert complete.runs("nothing") == []
    [wait] = client.waits(waiting)
    assert complete.waits(wait["id"]) == [(wait["id"], "Paint  the house?")]
    asked = subprocess.run(
        program,
        env={
            "TORPOR_HOME": str(client.home.root),
            "_TORPOR_COMPLETE": "complete_bash",
            "_TYPER_COMPLETE_ARGS": f"torpor show {waiting}",
            "COMP_WORDS": f"torpor show {waiting}",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert not asked.stderr


def test_where_no_server_is_nothing_is_offered_and_none_is_started(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("TORPOR_HOME", f"{tmp_path}/none")
    assert complete.runs("") == complete.waits("") == []
    monkeypatch.setenv("TORPOR_URL", "nonsense")
    assert complete.runs("") == []
