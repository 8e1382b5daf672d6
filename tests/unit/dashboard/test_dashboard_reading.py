"""What is made of logs: turns, timelines, the strip. All pure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torpor.core.prices import Prices
from torpor.dashboard import life, turns
from torpor.dashboard.timeline import BAD, BUSY, GOOD, SO_FAR, Item, Timeline
from torpor.dashboard.turns import Message, Prompt

KEYS = st.sampled_from(
    ["messages", "input", "choices", "message", "content", "usage", "tool_calls", "function"]
)
SHAPED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def test_a_chat_completion_is_a_turn() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi."},
        {"role": "tool", "content": [{"type": "text", "text": "42"}]},
        {"role": "user", "content": "And?"},
    ]
    asked = turns.read_prompt(json.dumps({"model": "m", "messages": messages}))
    assert asked == Prompt("m", [Message("tool", "42"), Message("user", "And?")], earlier=3)


def test_a_turn_shows_what_it_took_and_cost() -> None:
    log = Log()
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]})
    log.add("op.begin", "model:/x#1", kind="model", name="/x", data={"body": body})
    choice = {"message": {"content": "Hi."}, "finish_reason": "length"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 30}
    usage_details = {"prompt_tokens_details": {"cached_tokens": 7}}
    answer = json.dumps({"model": "m", "choices": [choice], "usage": usage | usage_details})
    log.add("op.end", "model:/x#1", ok=True, value={"status": 200, "body": answer})
    prices = Prices({"m": {"input": 1.0, "output": 2.0}})
    (item,) = Timeline.of(log.entries, prices).items.values()
    assert (item.kind, item.title, item.brief) == ("turn", "m", "Hi.")
    assert item.figures == ("1000 in (7 cached)", "30 out", "$0.0011", "length")
    assert [(each.label, each.text) for each in item.blocks] == [
        ("user", "Hello"),
        ("assistant", "Hi."),
    ]


def test_an_answer_grows_while_it_comes_and_is_shown_once() -> None:
    log = Log()
    log.add("op.begin", "model:/x#1", kind="model", name="/x", data={})
    log.add("op.part", "model:/x#1", text="Hel")
    log.add("op.part", "model:/x#1", text="lo\nyou")
    (item,) = Timeline.of(log.entries).items.values()
    assert (item.tone, item.brief) == (BUSY, "you")
    assert [(each.label, each.text) for each in item.blocks[1:]] == [(SO_FAR, "Hello\nyou")]
    answer = json.dumps({"model": "m", "choices": [{"message": {"content": "Hello\nyou"}}]})
    log.add("op.end", "model:/x#1", ok=True, value={"status": 200, "body": answer})
    (item,) = Timeline.of(log.entries).items.values()
    assert [(each.label, each.text) for each in item.blocks[1:]] == [("assistant", "Hello\nyou")]


def test_one_that_began_further_up_grows_all_the_same() -> None:
    log = Log()
    log.add("op.part", "model:/x#1", text="Hel")
    log.add("op.part", "model:/x#1", text="lo")
    (item,) = Timeline.of(log.entries).items.values()
    assert (item.kind, item.title, item.brief) == ("turn", "/x#1", "Hello")


@settings(max_examples=60, deadline=None)
@given(SHAPED, SHAPED)
def test_whatever_an_agent_or_a_server_wrote_is_read(asked: Any, answered: Any) -> None:
    turns.read_prompt(json.dumps(asked))
    log = Log()
    log.add("op.begin", "model:/x#1", kind="model", name="/x", data=asked)
    log.add("op.end", "model:/x#1", ok=True, value={"status": 200, "body": json.dumps(answered)})
    log.add("op.end", "model:/x#2", ok=True, value=answered)
    assert len(log.items()) == 2


class Log:
    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, kind: str, op: str | None = None, /, *, epoch: int = 1, **data: Any) -> None:
        seq = len(self.entries) + 1
        entry = {"seq": seq, "at": float(seq), "epoch": epoch, "kind": kind, "op": op}
        self.entries.append(entry | {"data": data})

    def items(self) -> list[Item]:
        return list(Timeline.of(self.entries).items.values())


def test_a_step_is_one_item_from_its_beginning_to_its_outcome() -> None:
    log = Log()
    given = {"args": ["owls"], "kwargs": {"n": 2}}
    log.add("op.begin", "step:search#1", kind="step", name="search", data=given)
    (begun,) = log.items()
    assert (begun.kind, begun.tone, begun.brief) == ("step", BUSY, '("owls", n=2)')
    log.add("op.again", "step:search#1")
    log.add("op.end", "step:search#1", ok=True, value=["a"])
    (ended,) = log.items()
    assert (ended.tone, ended.seq, ended.last, ended.ended_at) == (GOOD, 1, 3, 3.0)
    assert ended.figures == ("done again",)
    assert ended.brief == '("owls", n=2) → ["a"]'
    assert [block.label for block in ended.blocks] == ["arguments", "result"]


def test_a_failure_shows_why() -> None:
    log = Log()
    log.add("op.begin", "step:pay#1", kind="step", name="pay")
    error = {"type": "ValueError", "message": "no card", "traceback": "Traceback\n  line 1"}
    log.add("op.end", "step:pay#1", ok=False, error=error)
    (item,) = log.items()
    assert (item.tone, item.brief) == (BAD, "ValueError: no card")
    assert item.blocks[-1].text == "Traceback\n  line 1"


def test_a_freeze_and_the_sleep_after_it_are_one_item() -> None:
    log = Log()
    log.add("snapshot", snapshot="snap_1", bytes=41_000, pause_ms=8.0, freeze_ms=120.0)
    (taken,) = log.items()
    assert taken.kind == "snapshot"
    log.add("run.suspended", snapshot="snap_1")
    log.add("run.resumed", epoch=2)
    log.add("machine.up", epoch=2, resume_ms=180.0, warm=True)
    (item,) = log.items()
    assert (item.kind, item.ended_at) == ("asleep", 3.0)
    figures = ("41.0 kB", "paused 8 ms", "stored in 120 ms", "ready in 180 ms, warm")
    assert item.figures == figures


def test_what_is_printed_in_pieces_is_one_item_a_stream() -> None:
    log = Log()
    for stream, text in [
        ("stdout", "a"),
        ("stdout", "b\nlast\n"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]:
        log.add("output", stream=stream, text=text, offset=0)
    assert [(each.title, each.blocks[0].text) for each in log.items()] == [
        ("stdout", "ab\nlast\n"),
        ("stderr", "c"),
        ("stdout", "d"),
    ]
    assert log.items()[0].brief == "last"


def test_output_is_told_by_its_last_line_as_a_terminal_shows_it() -> None:
    log = Log()
    for text in ("\x1b[1mone\n", "10 %\r\x1b[32m99 %\x1b[0m\n", "\n \n"):
        log.add("output", stream="stdout", text=text, offset=0)
    (item,) = log.items()
    assert (item.brief, item.figures) == ("99 %", ("4 lines",))


def test_a_child_that_failed_says_so() -> None:
    log = Log()
    log.add("op.begin", "child:leaf#1", kind="child", name="leaf", child="run_1")
    (begun,) = log.items()
    assert (begun.kind, begun.title, begun.run, begun.tone) == ("child", "leaf", "run_1", BUSY)
    error = {"type": "LookupError", "message": "no figures"}
    value = {"status": "failed", "data": error, "approved": None, "note": None, "by": "run_1"}
    log.add("op.end", "child:leaf#1", ok=True, value=value)
    (ended,) = log.items()
    assert (ended.tone, ended.brief) == (BAD, "LookupError: no figures")
    assert ended.figures == ("failed",)


def test_an_outcome_whose_beginning_is_on_another_page_is_an_item() -> None:
    log = Log()
    log.add("op.end", "step:search#1", ok=True, value=1)
    (item,) = log.items()
    assert (item.kind, item.title, item.tone) == ("step", "search#1", GOOD)


def test_what_nobody_knows_is_shown_as_it_is() -> None:
    log = Log()
    log.add("later.kind", note="hello")
    (item,) = log.items()
    assert (item.kind, item.title) == ("mark", "later.kind")
    assert '"note": "hello"' in item.blocks[0].text


def moves(*of: tuple[float, str]) -> list[dict[str, Any]]:
    return [{"kind": f"run.{kind}", "at": at} for at, kind in of]


def test_the_strip_is_true_to_scale() -> None:
    drawn = life.read(
        moves(
            (0, "created"), (10, "started"), (20, "suspended"), (90, "resumed"), (100, "completed")
        ),
        now=500.0,
    )
    assert drawn is not None
    assert (drawn.began_at, drawn.until, drawn.sleeps) == (0, 100, 1)
    spans = [(span.what, span.x, span.width) for span in drawn.spans]
    assert spans == [
        ("queued", 0.0, 100.0),
        ("suspended", 200.0, 700.0),
        ("running", 100.0, 100.0),
        ("running", 900.0, 100.0),
    ]


def test_a_fork_begins_where_it_was_forked() -> None:
    drawn = life.read(moves((500, "forked"), (510, "started"), (520, "suspended")), now=600.0)
    assert drawn is not None
    assert (drawn.began_at, drawn.until, drawn.sleeps) == (500, 600, 1)
    assert [(span.what, span.x) for span in drawn.spans] == [
        ("queued", 0.0),
        ("suspended", 200.0),
        ("running", 100.0),
    ]


def test_a_moment_awake_is_seen_however_long_the_sleep() -> None:
    week = 7 * 86400.0
    drawn = life.read(moves((0, "created"), (0, "started"), (1, "suspended")), now=week)
    assert drawn is not None
    (awake,) = [span for span in drawn.spans if span.what == "running"]
    assert awake.width == life.AWAKE_MIN


@pytest.mark.parametrize("cycles", [1, 1000, 5000])
def test_however_long_a_log_is_the_strip_is_bounded(cycles: int) -> None:
    waking = [(each + part, kind) for each in range(cycles) for part, kind in WAKING]
    drawn = life.read(moves((0, "created"), *waking), now=float(cycles))
    assert drawn is not None
    assert len(drawn.spans) < 2500
    assert all(s.x >= 0 and s.x + s.width <= life.WIDTH + 0.1 for s in drawn.spans)


WAKING = [(0.0, "resumed"), (0.3, "suspended")]


def test_a_permission_says_who_decided_and_from_where_and_not_what_its_page_shows() -> None:
    action = {"request": {"host": "x", "body": "<b>\u202e"}, "reason": "it is due"}
    value = {"status": "completed", "data": {"decision": "run"}, "approved": True, "by": "ana"}
    log: list[tuple[str, str | None, dict[str, Any]]] = [
        (
            "op.begin",
            "permission:a#1",
            {"kind": "permission", "name": "a", "prompt": "POST https://x/", "data": action},
        ),
        ("wait.completed", "permission:a#1", {"by": "ana", "origin": "key ops, from 192.0.2.1"}),
        ("op.end", "permission:a#1", {"ok": True, "value": value}),
    ]
    entries = [
        {"seq": n, "kind": kind, "op": op, "data": data, "at": float(n), "epoch": 1}
        for n, (kind, op, data) in enumerate(log, 1)
    ]
    (item,) = Timeline.of(entries).items.values()
    assert (item.title, item.brief) == ("permission", "POST https://x/")
    assert item.figures == ("from key ops, from 192.0.2.1", "allowed for this run", "by ana")
    assert [(each.label, each.text) for each in item.blocks] == [("the agent says", "it is due")]


def test_a_request_shows_how_it_was_answered_and_why_it_broke_off() -> None:
    log = Log()
    way: dict[str, Any] = {"rule": "host a.example", "secret": "KEY"}
    url = "https://a.example/x"
    sizes: dict[str, Any] = {"sent": 0, "received": 12, "ms": 87}
    ends: list[dict[str, Any]] = [{"status": 200}, {"status": 503}, {"problem": "lost: why"}]
    for number, end in enumerate(ends, 1):
        log.add("egress.request", None, id=f"1.{number}", method="GET", url=url, **way)
        log.add("egress.end", None, id=f"1.{number}", **sizes, **end)
    log.add("egress.refused", None, name="b.example", code="c", reason="no rule", times=10)
    fine, bad, lost, refused = Timeline.of(log.entries).items.values()
    assert (fine.title, fine.tone) == (f"GET {url}", "good")
    assert (fine.brief, fine.figures) == ("0 B sent, 12 B received", ("HTTP 200", "87 ms"))
    assert (bad.tone, lost.tone, lost.brief) == ("bad", "bad", "lost: why")
    assert [each.label for each in fine.blocks] == ["let out by"]
    assert (refused.title, refused.brief) == ("b.example", "refused: no rule")
    assert refused.figures == ("10 times",)


@pytest.mark.parametrize(
    ("value", "brief", "tone"),
    [
        ({"status": 201, "headers": {"a": "b"}, "body": "made"}, "made", "good"),
        ({"status": 500, "headers": [["a", "b"], ["a", "b"]], "body": "no"}, "no", "bad"),
        ({"status": 200, "headers": {}, "body": "par", "cut": "it was lost"}, "it was lost", "bad"),
        ({"status": 200, "headers": {}, "body_b64": "AAEC"}, "", "good"),
        ({"status": 200, "headers": "a", "body": [1]}, "[1]", "good"),
        (7, "→ 7", "good"),
    ],
)
def test_a_recorded_request_shows_its_answer(value: Any, brief: str, tone: str) -> None:
    log, op = Log(), "http:a.example/x@1a2b3c4d#1"
    sent = {"method": "POST", "scheme": "https", "host": "a.example", "path": "/x", "body": "{}"}
    log.add("op.begin", op, kind="http", name="n", data={**sent, "headers": {"a": "b"}})
    log.add("op.end", op, ok=True, value=value)
    (item,) = Timeline.of(log.entries).items.values()
    assert (item.title, item.brief, item.tone) == ("POST https://a.example/x", brief, tone)
    assert item.blocks[0].text == "a: b"
