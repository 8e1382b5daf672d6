"""Answers of models as people see them in a log: whole once they came, growing while they come."""

from __future__ import annotations

import io
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.cli import logs, parts

Entries = list[dict[str, Any]]


def log(*kinds: tuple[str, str | None, dict[str, Any]]) -> Entries:
    numbers = count(1)
    return [
        {"seq": next(numbers), "at": 1e9, "kind": kind, "op": op, "data": data}
        for kind, op, data in kinds
    ]


def part(op: str, text: str) -> tuple[str, str, dict[str, Any]]:
    return ("op.part", op, {"text": text})


def end(op: str, text: str) -> tuple[str, str, dict[str, Any]]:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    body = json.dumps({"model": "m", "choices": [choice], "usage": usage})
    return ("op.end", op, {"ok": True, "value": {"status": 200, "body": body}})


STREAM = log(
    part("model:a#1", "Hel"),
    part("model:b#1", "Ot"),
    part("model:a#1", "lo\nyou"),
    ("note.log", None, {"message": "noted", "level": "info"}),
    end("model:a#1", "Hello\nyou"),
    part("model:b#1", "her"),
)


def test_what_has_come_is_shown_where_it_ended_and_the_rest_as_far_as_it_is() -> None:
    shown = list(parts.settled(STREAM))
    assert [(each["kind"], each["op"]) for each in shown] == [
        ("note.log", None),
        ("op.end", "model:a#1"),
        ("op.part", "model:b#1"),
    ]
    assert shown[-1]["data"]["text"] == "Other"


@given(st.integers(0, 6))
def test_who_follows_gets_all_text_of_what_is_under_way_and_of_nothing_else_twice(
    known: int,
) -> None:
    texts = {"model:a#1": "", "model:b#1": ""}
    for entry in parts.followed(STREAM, known):
        if entry["kind"] == "op.part":
            texts[entry["op"]] += entry["data"]["text"]
    assert texts["model:b#1"] == "Other"
    assert texts["model:a#1"] == ("" if known >= 5 else "Hello\nyou")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(entries: Entries, *, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    out = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    logs._print_entries(entries, at_once=True)
    return [line.partition("  ")[2] for line in out.getvalue().splitlines()]


def test_in_a_terminal_it_goes_on_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    one = [entry for entry in STREAM if entry["op"] != "model:b#1"]
    found = printed(one, terminal=True, monkeypatch=monkeypatch)
    assert found[0].endswith("model:a#1  Hello")
    assert found[-1].endswith("model:a#1  200, m, 7 in, 2 out, stop")
    assert len(found) == 4  # "you" has its own line, and the note


def test_elsewhere_each_part_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = printed(STREAM, terminal=False, monkeypatch=monkeypatch)
    assert [line.split("  ")[-1].strip() for line in found if line.startswith("op.part")] == [
        "Hel",
        "Ot",
        "lo you",
        "her",
    ]
