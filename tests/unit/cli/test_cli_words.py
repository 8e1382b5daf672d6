"""Words, questions and timelines: the pure parts of the command line."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from torpor.cli import timeline
from torpor.cli.question import Answer, Detach, Question, as_value
from torpor.web import words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.12, "120 ms"),
        (0.9996, "1.0 s"),
        (3.14, "3.1 s"),
        (59.96, "1 min"),
        (250, "4 min 10 s"),
        (3599.7, "1 h"),
        (7200, "2 h"),
        (7500, "2 h 5 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_200_000, "1.2 MB"), (999_960, "1.0 MB")],
)
def test_sizes(number: int, text: str) -> None:
    assert words.size(number) == text


@given(st.integers(min_value=0, max_value=10**15))
def test_a_size_never_needs_four_digits(number: int) -> None:
    match = re.fullmatch(r"(\d+)(\.\d)? (B|kB|MB|GB|TB)", words.size(number))
    assert match is not None
    assert int(match.group(1)) < 1000 or match.group(3) == "TB"


@given(st.text())
def test_what_an_agent_says_cannot_steer_the_terminal(text: str) -> None:
    shown = words.plain(text)
    assert not any(ord(c) < 32 and c not in "\n\t" for c in shown)
    assert not any(0x7F <= ord(c) < 0xA0 for c in shown)
    assert not any("\u2028" <= c <= "\u202e" or "\u2066" <= c <= "\u2069" for c in shown)
    assert "\n" not in words.line(text)


@given(st.text())
def test_a_value_is_json_or_itself(text: str) -> None:
    value = as_value(text)
    assert value == text or not isinstance(value, str) or text.strip().startswith('"')


def wait(**more: Any) -> dict[str, Any]:
    asked = {"run": "run_1", "op": "wait:send#1", "prompt": "Send?", "data": None, "approve": True}
    return asked | {"schema": None} | more


def typed(question: Question, keys: str) -> Any:
    decided = None
    for key in keys:
        assert decided is None
        decided = question.key(key)
    return decided


@pytest.mark.parametrize(
    ("keys", "decided"),
    [
        ("y", Answer(approved=True)),
        ("N", Answer(approved=False)),
        ("\r \x1b?y", Answer(approved=True)),
        ("ewhy not\ry", Answer(approved=True, note="why not")),
        ("eyes\x1bn", Answer(approved=False)),
        ("ea\re\x15b\ry", Answer(approved=True, note="b")),
        ("d", Detach()),
        ("edd\x04", Detach()),
        ("x", None),
    ],
)
def test_keys_of_an_approval(keys: str, decided: object) -> None:
    assert typed(Question(wait()), keys) == decided


@pytest.mark.parametrize(
    ("keys", "decided"),
    [
        ("y", Answer(approved=True)),
        ("r", Answer({"decision": "run"}, True)),
        ("eno\rn", Answer(approved=False, note="no")),
    ],
)
def test_keys_of_a_permission(keys: str, decided: object) -> None:
    assert typed(Question({**wait(), "kind": "permission"}), keys) == decided
    assert typed(Question(wait()), "r") is None


@pytest.mark.parametrize(
    ("keys", "decided"),
    [
        ("yes\r", Answer(data="yes")),
        ("[1, 2]\n", Answer(data=[1, 2])),
        ("\r\r", None),
        ("null\r", Answer(data=None)),
        ("yn\x04", Detach()),
    ],
)
def test_keys_of_a_question_for_data(keys: str, decided: object) -> None:
    assert typed(Question(wait(approve=False)), keys) == decided


@given(st.text(), st.text(max_size=20))
def test_a_question_shows_whatever_it_is_about(prompt: str, note: str) -> None:
    question = Question(wait(prompt=prompt, data={"text": prompt}), others=2)
    for key in "e" + note:
        question.key(key)
    console = Console(width=60, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as shown:
        console.print(question)
    assert "\x1b" not in shown.get()


def entry(seq: int, at: float, kind: str, op: str | None = None, **data: Any) -> dict[str, Any]:
    return {"seq": seq, "at": at, "epoch": 1, "kind": kind, "op": op, "data": data}


def test_a_timeline_of_a_run_that_slept() -> None:
    read = timeline.read(
        [
            entry(1, 0.0, "run.created"),
            entry(2, 1.0, "run.started"),
            entry(3, 2.0, "op.begin", "step:search#1"),
            entry(4, 3.5, "op.end", "step:search#1", ok=False, error={"message": "gone"}),
            entry(5, 4.0, "op.begin", "wait:approve#1"),
            entry(6, 5.0, "snapshot", bytes=10, pause_ms=8.0),
            entry(7, 5.0, "run.suspended"),
            entry(8, 90.0, "wait.completed", "wait:approve#1", value={"approved": True}),
            entry(9, 91.0, "run.resumed"),
            entry(10, 92.0, "op.end", "wait:approve#1", ok=True, value={"approved": True}),
            entry(11, 93.0, "op.begin", "step:send#1"),
            entry(12, 94.0, "run.failed"),
        ]
    )
    first, second = read.machines
    assert (first.how, second.how, read.ended_at) == ("started", "resumed", 94.0)
    assert first.items == [
        timeline.Operation("step:search#1", 2.0, 3.5, False, "gone"),
        timeline.Operation("wait:approve#1", 4.0, 90.0, True, "approved"),
        timeline.Freeze(5.0, 10, 8.0, 91.0),
    ]
    assert second.items == [timeline.Operation("step:send#1", 93.0)]


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_model_call_that_was_answered_with_an_error_has_failed(status: int) -> None:
    answer = {"status": status, "headers": {}, "body": '{"error": {"message": "no"}}'}
    read = timeline.read(
        [
            entry(1, 1.0, "run.started"),
            entry(2, 2.0, "op.begin", "model:/v1/x@0#1"),
            entry(3, 3.0, "op.end", "model:/v1/x@0#1", ok=True, value=answer),
        ]
    )
    (call,) = read.machines[0].items
    assert isinstance(call, timeline.Operation)
    assert (call.ok, call.outcome) == (False, f"HTTP {status}")


@pytest.mark.parametrize(
    ("input", "output", "text"),
    [
        (3400, 500, "3,400 tokens in, 500 out"),
        (3400, None, "3,400 tokens in"),
        (None, 5, "5 tokens out"),
        (0, 0, "0 tokens in, 0 out"),
        (None, None, ""),
    ],
)
def test_tokens(input: int | None, output: int | None, text: str) -> None:
    assert words.tokens(input, output) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\nb", "a\nb"),
        ([1], "[\n  1\n]"),
        (
            {"to": "ana", "draft": "Dear Ana,\nyes.", "n": 1},
            "to: ana\ndraft:\n  Dear Ana,\n  yes.\nn: 1",
        ),
        ({"facts": ["x", 1]}, 'facts: ["x", 1]'),
        ({"facts": ["x" * 90]}, f'facts:\n  [\n    "{"x" * 90}"\n  ]'),
        ({}, ""),
    ],
)
def test_what_is_asked_about_reads_as_text(value: Any, text: str) -> None:
    assert words.shown(value) == text


@pytest.mark.parametrize(
    ("prompt", "op", "text"),
    [("Send?", "wait:a#1", "Send?"), (None, "wait:a#1", "a"), (None, "wait:a b#2", "a b#2")],
)
def test_a_wait_is_called_by_its_prompt_or_name(prompt: str | None, op: str, text: str) -> None:
    assert words.question({"prompt": prompt, "op": op}) == text


@pytest.mark.parametrize(
    ("snapshots", "seq", "text"),
    [
        (["s"], 0, "its snapshot does not fit this host (x): its whole log is replayed"),
        (
            ["snap_1"],
            7,
            "its snapshot does not fit this host (x): its log is replayed after entry 7",
        ),
        ([], 0, "its template does not fit this host (x): another is made"),
    ],
)
def test_what_does_not_fit_this_host(snapshots: list[str], seq: int, text: str) -> None:
    data = {"snapshots": snapshots, "reason": "x", "seq": seq}
    assert words.unfit(data) == text


@pytest.mark.parametrize(
    ("protocol", "port", "text"),
    [
        ("https", 443, "a.example"),
        ("https", 8443, "https://a.example:8443"),
        ("http", 80, "http://a.example"),
        ("tcp", 5432, "tcp://a.example:5432"),
        ("", 0, "a.example"),
        ("", 443, "a.example:443"),
        ("https", 0, "https://a.example"),  # what denies may be for all ports of a protocol
    ],
)
def test_where_a_rule_leads(protocol: str, port: int, text: str) -> None:
    assert words.place({"host": "a.example", "port": port, "protocol": protocol}) == text


def test_a_budget_in_words() -> None:
    def share(kind: str, used: float, allowed: float | None = None) -> dict[str, Any]:
        return {"kind": kind, "used": used, "allowed": allowed, "asks": False}

    assert words.budget([share("cost", 0.42, 2.0), share("requests", 0, 1000)]) == (
        "0.42 of 2 USD, 0 of 1,000 requests"
    )
    assert words.budget([share("bytes_out", 1500, 2e7)]) == "1.5 kB of 20.0 MB sent"
    assert words.budget([share("tokens", 12), share("requests", 0)]) == "12 tokens"
    assert words.budget([share("requests", 1)]) == "1 request"
