"""What is in doubt, in the terminal."""

from __future__ import annotations

import time

from rich.console import Console

from torpor.cli import runs, timeline
from torpor.cli.answering import how_to_answer


def shown(what: object) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(what)
    return " ".join(capture.get().split())


def test_show_lists_it_with_its_place() -> None:
    doubt = {"op": "step:pay#1", "at": "shop.py:7", "began_at": 100.0, "again": 0}
    assert shown(runs._doubt(doubt, 160.0)) == "in doubt: step:pay#1 at shop.py:7, begun 1 min ago"
    assert shown(runs._doubt({**doubt, "again": 2}, 160.0)).endswith(", done again 2 times")


def test_a_trace_says_what_was_done_again() -> None:
    log = [
        ("run.started", None, {}),
        ("op.begin", "step:pay#1", {"kind": "step", "name": "pay", "digest": "d"}),
        ("run.recovered", None, {}),
        ("op.again", "step:pay#1", {}),
        ("op.end", "step:pay#1", {"ok": True, "value": 1}),
    ]
    entries = [
        {"kind": kind, "op": op, "data": data, "at": at, "epoch": 1}
        for at, (kind, op, data) in enumerate(log)
    ]
    read = timeline.read(entries)
    (step,) = read.machines[0].items
    assert isinstance(step, timeline.Operation) and step.again == 1
    assert "step:pay#1 3.0 s ok done again 1 time" in shown(runs._item(step, 9.0, ended=True))


def test_a_question_about_it_names_the_choices() -> None:
    wait = {"id": "wait_1", "kind": "doubt", "approve": False, "created_at": time.time()}
    assert '--data VALUE, which is "again", "fail"' in how_to_answer(wait)


def test_a_trace_says_who_decided_about_a_permission_and_from_where() -> None:
    decided = {"decision": "deny", "reason": "no"}
    value = {"data": decided, "approved": False, "by": "ana", "note": "no", "status": "completed"}
    log = [
        ("run.started", None, {}),
        ("op.begin", "permission:pay#1", {"kind": "permission", "name": "pay", "digest": "d"}),
        ("wait.completed", "permission:pay#1", {"approved": False, "origin": "its link"}),
        ("op.end", "permission:pay#1", {"ok": True, "value": value}),
    ]
    entries = [
        {"kind": kind, "op": op, "data": data, "at": at, "epoch": 1}
        for at, (kind, op, data) in enumerate(log)
    ]
    (item,) = timeline.read(entries).machines[0].items
    text = shown(runs._item(item, 9.0, ended=True))
    assert "denied" in text and "by ana, from its link, no" in text
