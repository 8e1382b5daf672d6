"""`torpor egress`, and what `torpor deploy` says of what a version may reach."""

from __future__ import annotations

import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.conftest import Torpor

from torpor.cli import egress, terminal
from torpor.web import words

Write = Callable[..., str]

STAGES = ("booting [the image]\n", "loading the agent\n")
GITHUB = ('host = "api.github.com"', 'methods = ["POST"]', 'secret = "GITHUB"', "ask = true")
OPEN = ('host = "a.example"',)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """An agent's file with these entries."""

    def write(*entries: tuple[str, ...], budget: str = "") -> str:
        toml = [line for entry in entries for line in ("[[tool.torpor.egress]]", *entry)]
        toml += ["[tool.torpor.budget]", budget] if budget else []
        block = "\n".join(("# /// script", *(f"# {line}" for line in toml), "# ///"))
        path = tmp_path / "agent.py"
        path.write_text(f"{block}\n\n\nraise SystemExit('never run here')\n")
        return str(path)

    return write


def test_a_deployment_says_what_is_new(torpor: Torpor, write: Write) -> None:
    first = torpor("deploy", write(GITHUB, budget='cost = "1 USD"'))
    assert first.exit_code == 0
    assert "this agent asks for:" in first.stderr
    line = "+ api.github.com: POST, with the secret GITHUB, asks a person first"
    assert line in first.stderr
    assert "not set on this host: GITHUB (torpor secrets set NAME)" in first.stderr
    for silent in (write(GITHUB, budget='cost = "1 USD"'), write(budget='cost = "1 USD"')):
        assert torpor("deploy", silent).stderr == "".join(STAGES)
    torpor("deploy", write(GITHUB, budget='cost = "1 USD"'))
    more = torpor("deploy", write(GITHUB[:-1], OPEN, budget='cost = "2 USD"'))
    assert more.stderr.removesuffix("".join(STAGES)).splitlines() == [
        "this version asks for more than the last one:",
        "  + a.example: all",
        "  - a person was asked until now, and not any more: api.github.com: POST",
        "  + budget: 2 USD (was 1 USD)",
    ]


def test_in_a_terminal_it_is_confirmed(
    torpor: Torpor, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "interactive", lambda: True)
    entry = ('host = "confirmed.example"',)
    refused = torpor("deploy", write(entry), input="n\n")
    assert (refused.exit_code, "not deployed" in refused.stderr) == (2, True)
    assert torpor("deploy", write(entry), "--yes").exit_code == 0
    other = ('host = "other.example"',)
    assert torpor("deploy", write(other), input="y\n").exit_code == 0
    assert "deploy it?" not in torpor("deploy", write(other)).stderr


@pytest.mark.parametrize("by_name", [False, True])
def test_which_rule_decides(torpor: Torpor, write: Write, by_name: bool) -> None:
    file = write(GITHUB, OPEN)
    torpor("deploy", file)
    agent = "player" if by_name else file

    def judged(method: str, url: str) -> tuple[int, str]:
        result = torpor("egress", "test", agent, method, url)
        return result.exit_code, result.stdout

    code, shown = judged("get", "https://a.example/x")
    assert code == 0 and "GET https://a.example/x" in shown and "host a.example" in shown
    code, shown = judged("POST", "https://api.github.com/user")
    assert code == 6 and shown.startswith("ask") and "GITHUB" in shown
    code, shown = judged("POST", "https://evil.example/")
    assert code == 1 and "no rule allows evil.example" in shown
    assert 'host = "evil.example"' in shown  # what to add
    assert 'preset = "anthropic"' in judged("GET", "https://api.anthropic.com/")[1]
    code, shown = judged("GET", "http://a.example/")
    assert code == 1 and "https only" in shown


def test_what_cannot_be_tried_is_refused(torpor: Torpor, write: Write) -> None:
    for url in ("ftp://a.example", "a.example", "https://me:pw@a.example/", "tcp://a.example"):
        assert torpor("egress", "test", write(OPEN), "GET", url).exit_code == 2
    assert torpor("egress", "test", "nobody", "GET", "https://a.example").exit_code == 2


def test_rules_are_listed_of_a_file_and_of_an_agent(torpor: Torpor, write: Write) -> None:
    file = write(('preset = "openai"',), GITHUB, budget="requests = 1000")
    torpor("deploy", file)
    for agent in (file, "player"):
        shown = torpor("egress", "rules", agent).stdout
        assert "api.openai.com" in shown and "model calls" in shown and "1,000 requests" in shown
        listed = json.loads(torpor("egress", "rules", agent, "--json").stdout)
        assert {rule["host"] for rule in listed["rules"]} == {"api.openai.com", "api.github.com"}
    assert "api.github.com" in torpor("agents", "show", "player").stdout


def test_presets_are_listed(torpor: Torpor) -> None:
    shown = torpor("egress", "presets").stdout
    assert "openai" in shown and "ANTHROPIC_API_KEY" in shown and "api.anthropic.com" in shown


def exchange(seq: int, verdict: str = "allow", **more: Any) -> dict[str, Any]:
    keys = (
        "op",
        "code",
        "reason",
        "times",
        "rule",
        "secret",
        "permitted_by",
        "cost_usd",
        "path",
        *("permitted_at", "permitted_from"),
    )
    at = {"at": float(seq), "ended_at": None, "ms": None, "status": None}
    sizes = {"sent_bytes": None, "received_bytes": None}
    named = {"run": "run_1", "seq": seq, "verdict": verdict, "method": "GET"}
    return dict.fromkeys(keys) | at | sizes | named | {"host": "a", "url": "https://a/"} | more


def test_what_is_followed_comes_once_and_when_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_FOLLOW_S", 0.0)
    under_way, over = exchange(1), exchange(1, ended_at=5.0, ms=3.0, status=200)
    refused = exchange(2, "deny", reason="no rule allows a", ended_at=2.0)
    answers = iter([[refused, over], [refused, over, exchange(3, "ask")]])
    asked: list[float] = []

    def ask(since: float, **_: Any) -> list[dict[str, Any]]:
        asked.append(since)
        return next(answers)

    found = egress._follow(ask, [under_way, refused], lambda: False)
    assert [next(found)["seq"] for _ in range(3)] == [2, 1, 3]
    assert asked == [2.0, 5.0]


def test_following_begins_where_the_list_does_and_ends_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest, which is all that was asked for, never ended: what is before it is not listed."""
    monkeypatch.setattr(egress, "_FOLLOW_S", 0.0)
    log = [exchange(n, ended_at=float(n)) for n in range(1, 9)]
    under_way = exchange(9)
    asked: list[float] = []

    def ask(since: float, **_: Any) -> list[dict[str, Any]]:
        asked.append(since)
        last = [exchange(9, ended_at=12.0, code="cancelled")] if has_ended_at[0] else [under_way]
        return [each for each in (*log, *last) if (each["ended_at"] or each["at"]) >= since]

    has_ended_at = [False]
    states = iter([False, True])

    def has_ended() -> bool:
        has_ended_at[0] = next(states)
        return has_ended_at[0]

    found = list(egress._follow(ask, [under_way], has_ended))
    assert [(each["seq"], each["ended_at"]) for each in found] == [(9, 12.0)]
    assert asked == [9.0, 9.0]


def test_following_knows_no_more_than_the_last_answer_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "_FOLLOW_S", 0.0)
    answers = ([exchange(n, ended_at=float(n))] for n in itertools.count(1))
    found = egress._follow(lambda **_: next(answers), [], lambda: False)
    assert [next(found)["seq"] for _ in range(50)] == list(range(1, 51))
    known = inspect.getgeneratorlocals(found)["known"]
    assert len(known) <= 1


def test_a_log_of_nothing(torpor: Torpor) -> None:
    assert "nothing went out" in torpor("egress", "log").stderr
    assert torpor("egress", "log", "--json").stdout == "[]\n"
    assert torpor("egress", "log", "run_nothing").exit_code == 2


def test_a_refusal_in_words() -> None:
    data = {"method": "GET", "url": "https://a/x", "reason": "no rule allows a.", "times": 3}
    assert words.refused(data) == "GET https://a/x was refused (3 times by now): no rule allows a."
    assert words.refused({"name": "b", "port": 25, "reason": "no"}) == "b:25 was refused: no"
