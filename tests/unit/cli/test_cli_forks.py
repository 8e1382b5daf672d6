"""fork and retry, and the tree that they make; on a service in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from torpor.cli import family, timeline
from torpor.client import Client, Ended

Torpor = Callable[..., Result]


def ended(torpor: Torpor, agent: str, client: Client, *script: Any) -> str:
    done = torpor("run", agent, "--detach", "--input", json.dumps({"script": script}))
    run = str(done.stdout.strip())
    assert isinstance(list(client.follow(run))[-1], Ended)
    return run


def test_a_fork_is_asked_for_as_it_was_meant(
    torpor: Torpor, agent: str, client: Client, tmp_path: Any
) -> None:
    run = ended(torpor, agent, client, ["return", 1])
    text = tmp_path / "text"
    text.write_text("é\n")
    done = torpor(
        *("fork", run, "--at", "2", "--set", 'step:a=b#1={"x": 1}', "--set", "step:b#2=plain"),
        *("--set", f"step:c#1=@{text}", "--json"),
    )
    made = json.loads(done.stdout)
    assert (made["origin"], made["origin_seq"]) == (run, 1)
    told = client.run(made["id"])["forked"]
    assert told["at"] == 2 and told["version"] is None
    assert told["values"] == {"step:a=b#1": {"x": 1}, "step:b#2": "plain", "step:c#1": "é\n"}
    done = torpor("fork", run, "--at", "snap_x", "--agent", agent)
    assert done.exit_code == 0, done.stderr
    told = client.run(done.stdout.strip())["forked"]
    assert told["at"] == "snap_x" and told["version"] is not None
    assert f"fork of {run} at 1" in done.stderr


def test_a_fork_with_another_input(torpor: Torpor, agent: str, client: Client) -> None:
    run = ended(torpor, agent, client, ["return", 1])
    other = json.dumps({"script": [["return", "other"]]})
    done = torpor("fork", run, "--input", other, "--follow")
    assert (done.exit_code, done.stdout) == (0, "other\n")
    one = torpor("fork", run, "-i", "more=2").stdout.strip()
    assert client.run(one)["input"] == {"script": [["return", 1]], "more": 2}


def test_a_retry(torpor: Torpor, agent: str, client: Client) -> None:
    run = ended(torpor, agent, client, ["fail", "ValueError", "no"])
    done = torpor("retry", run)
    assert f"retry of {run} at 1, tries again step:charge#1" in done.stderr
    assert torpor("retry", done.stdout.strip(), "--follow").exit_code == 1, "it fails again"
    good = ended(torpor, agent, client, ["return", 1])
    done = torpor("retry", good)
    assert (done.exit_code, "is completed" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--set", "step:a=1"), 2, "OP=VALUE"),
        (("--set", "step:a#1=@/none"), 2, "cannot read"),
        (("--input", "[]"), 2, "must be a JSON object"),
        (("--at", "99"), 2, "cannot be forked at 99"),
        (("--agent", "a.py:name"), 2, "takes a file without :NAME"),
    ],
)
def test_what_cannot_be_forked(
    torpor: Torpor, agent: str, client: Client, options: tuple[str, ...], code: int, said: str
) -> None:
    run = ended(torpor, agent, client, ["return", 1])
    done = torpor("fork", run, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert said in " ".join(done.stderr.split())


def test_the_tree_is_shown(torpor: Torpor, agent: str, client: Client) -> None:
    run = ended(torpor, agent, client, ["return", 1])
    one = torpor("fork", run).stdout.strip()
    two = torpor("fork", one, "--set", "step:a#1=1").stdout.strip()
    shown = torpor("show", one).stdout
    assert f"fork of {run} at 1" in shown
    lines = [line for line in shown.splitlines() if "run_" in line]
    tree = [next(r for r in (run, one, two) if r in line) for line in lines[-3:]]
    assert tree == [run, one, two]
    assert "sets step:a#1" in torpor("show", two).stdout
    rows = torpor("ps", "--all").stdout.splitlines()
    places = [next(i for i, row in enumerate(rows) if r in row) for r in (run, one, two)]
    assert places == list(range(places[0], places[0] + 3))
    assert rows[places[1]].startswith(f"└ {one}") and rows[places[2]].startswith(f"  └ {two}")


def test_forks_stand_below_their_origins_where_these_are_shown() -> None:
    def row(run: str, origin: str | None = None) -> dict[str, Any]:
        return {"id": run, "origin": origin}

    found = [row("f", "gone"), row("e", "b"), row("d", "a"), row("c", "b"), row("b", "a"), row("a")]
    shown = [(depth, run["id"]) for depth, run in family.in_order(found)]
    assert shown == [(0, "f"), (0, "a"), (1, "d"), (1, "b"), (2, "e"), (2, "c")]


def test_a_timeline_of_a_fork() -> None:
    def entry(n: int, kind: str, op: str | None = None, **data: Any) -> dict[str, Any]:
        return {"seq": n, "at": float(n), "epoch": n, "kind": kind, "op": op, "data": data}

    read = timeline.read(
        [
            entry(1, "run.created"),
            entry(2, "run.started"),
            entry(3, "op.begin", "step:a#1"),
            entry(4, "op.end", "step:a#1", ok=True, value=1, set={"was": {}}),
            entry(5, "op.begin", "step:b#1"),
            entry(6, "op.retried", "step:b#1", was={}),
            entry(7, "run.forked", origin="run_x", seq=6, how="retry"),
            entry(8, "run.started"),
            entry(9, "op.end", "step:b#1", ok=True, value=2),
        ]
    )
    first, second = read.machines
    assert second.how == "retry of run_x at 6, started"
    assert first.items == [
        timeline.Operation("step:a#1", 3.0, 4.0, True, changed="set by hand"),
        timeline.Operation("step:b#1", 5.0, 9.0, True, changed="tried again"),
    ]
