"""Waits end exactly once, and wake their run (rule 11)."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.contextlog.conftest import claimable

from torpor.contextlog.entries import journal, read_entries
from torpor.contextlog.runs import claim, create_run, get_run, request_cancel, transition
from torpor.contextlog.snapshots import NewSnapshot, record_snapshot
from torpor.contextlog.waits import (
    Narrowed,
    NewWait,
    WaitRow,
    agents_of,
    answer_wait,
    cancel_waits,
    complete_wait,
    create_wait,
    due_waits,
    end_due,
    get_wait,
    list_waits,
    next_due,
)
from torpor.core.errors import Conflict, Invalid, NotFound, StaleEpoch
from torpor.core.ids import Epoch, OpId, RunId, Seq, WaitId
from torpor.core.states import RunState


def make(commit: Any, run: RunId, epoch: Epoch, n: int = 1, **fields: Any) -> WaitRow:
    asked: dict[str, Any] = {"kind": "wait", "digest": "d", "name": "ok"} | fields
    made = commit(
        lambda c: create_wait(c, run, epoch, NewWait(op=OpId(f"wait:ok#{n}"), **asked), 12.0)
    )
    assert isinstance(made, WaitRow)
    return made


def suspend(commit: Any, run: RunId, epoch: Epoch, seq: int | None = None) -> Any:
    def both(c: Any) -> Any:
        at = get_run(c, run).last_seq if seq is None else seq
        figures: dict[str, Any] = {"manifest": "m", "bytes": 1, "pause_ms": 1.0, "freeze_ms": 2.0}
        record_snapshot(
            c,
            NewSnapshot(
                run=run,
                epoch=epoch,
                seq=Seq(at),
                version=commit.version,
                created_at=13.0,
                **figures,
            ),
        )
        return transition(c, run, epoch, RunState.SUSPENDED, 13.0)

    return commit(both)


def test_an_answer_ends_a_wait_wakes_the_run_and_is_replayed(commit: Any) -> None:
    run, epoch = commit.claimed()
    wait = make(commit, run, epoch, prompt="Send?", data={"n": 1}, approve=True, due_at=99.0)
    assert make(commit, run, epoch, prompt="Send?", data={"n": 1}) == wait
    assert (wait.state, wait.data, wait.approve, wait.due_at) == ("open", {"n": 1}, True, 99.0)
    suspended = suspend(commit, run, epoch)
    assert not suspended.ready
    assert commit(claimable) == []

    answer = {"data": None, "approved": True, "note": "go"}
    assert commit(lambda c: complete_wait(c, wait.id, value=answer, now=14.0, by="ann")) is True
    value = {"status": "completed", "data": None, "approved": True, "note": "go", "by": "ann"}
    after = commit(lambda c: get_wait(c, wait.id))
    assert (after.state, after.value, after.completed_at, after.by) == (
        "completed",
        value,
        14.0,
        "ann",
    )
    assert [r.id for r in commit(claimable)] == [run]
    assert commit(lambda c: journal(c, run, suspended.last_seq - 2)) == [
        {"op": "wait:ok#1", "kind": "wait", "name": "ok", "digest": "d", "ok": True}
        | {"value": value, "seq": suspended.last_seq + 2}
    ]
    told = [(e.kind, e.op) for e in commit(lambda c: read_entries(c, run, after=5))]
    assert told == [("wait.completed", "wait:ok#1"), ("op.end", "wait:ok#1")]
    with pytest.raises(Conflict, match=r"answered already, at 1970-01-01 00:00:14\+00:00 by ann"):
        commit(lambda c: complete_wait(c, wait.id, value={}, now=15.0))
    assert commit(lambda c: complete_wait(c, wait.id, value={"status": "timeout"}, now=99.0)) is (
        False
    )
    assert commit(lambda c: get_wait(c, wait.id)) == after
    assert commit(lambda c: list_waits(c, run)) == []
    assert commit(lambda c: list_waits(c, run, open_only=False)) == [after]


def test_an_answer_during_the_freeze_wakes_and_one_before_it_does_not(commit: Any) -> None:
    run, epoch = commit.claimed()
    before, during = make(commit, run, epoch, 1), make(commit, run, epoch, 2)
    commit(lambda c: complete_wait(c, before.id, value={}, now=13.0))
    paused_at = commit(lambda c: get_run(c, run)).last_seq
    commit(lambda c: complete_wait(c, during.id, value={}, now=13.0))
    assert suspend(commit, run, epoch, paused_at).ready

    again = commit(lambda c: claim(c, run, 14.0))
    third = make(commit, run, again, 3)
    commit(lambda c: complete_wait(c, third.id, value={}, now=15.0))
    assert not suspend(commit, run, again).ready  # it had all of them when it was paused
    assert commit(claimable) == []
    commit(lambda c: request_cancel(c, run, 12.0))
    assert [r.id for r in commit(claimable)] == [run]


def test_due_waits_end_by_themselves_once(commit: Any) -> None:
    run, epoch = commit.claimed()
    assert commit(next_due) is None
    late = make(commit, run, epoch, 1, due_at=30.0)
    sleep = make(commit, run, epoch, 2, kind="sleep", due_at=20.0)
    make(commit, run, epoch, 3)
    assert commit(next_due) == 20.0
    assert commit(lambda c: due_waits(c, 19.9)) == []
    assert commit(lambda c: end_due(c, 20.0)) == [sleep]
    assert commit(next_due) == 30.0
    assert commit(lambda c: end_due(c, 31.0)) == [late]
    assert commit(lambda c: end_due(c, 31.0)) == []
    ended = {w.op: w.state for w in commit(lambda c: list_waits(c, run, open_only=False))}
    assert ended == {"wait:ok#1": "timeout", "wait:ok#2": "completed", "wait:ok#3": "open"}
    with pytest.raises(Conflict, match="timed out already"):
        commit(lambda c: complete_wait(c, late.id, value={"approved": True}, now=32.0))


def test_the_end_of_a_run_cancels_its_open_waits(commit: Any) -> None:
    run, epoch = commit.claimed()
    waits = [make(commit, run, epoch, n) for n in (1, 2)]
    commit(lambda c: complete_wait(c, waits[0].id, value={}, now=13.0))
    commit(lambda c: transition(c, run, epoch, RunState.COMPLETED, 14.0, result="done"))
    assert commit(lambda c: get_wait(c, waits[1].id)).state == "cancelled"
    assert commit(lambda c: cancel_waits(c, run, 15.0)) == 0
    assert commit(lambda c: read_entries(c, run))[-1].kind == "run.completed"
    with pytest.raises(Conflict, match="cancelled already"):
        commit(lambda c: complete_wait(c, waits[1].id, value={}, now=15.0))


def test_what_is_wrong_with_a_wait_is_said_and_nothing_changes(commit: Any) -> None:
    run, epoch = commit.claimed()
    wait = make(commit, run, epoch)
    entries = commit(lambda c: read_entries(c, run))
    with pytest.raises(StaleEpoch):
        make(commit, run, Epoch(epoch + 1))
    with pytest.raises(Conflict, match="other arguments"):
        make(commit, run, epoch, digest="other")
    with pytest.raises(Invalid, match="'nap'"):
        make(commit, run, epoch, 2, kind="nap")
    for value in ({"status": "open"}, {"unknown": 1}, {"data": "x" * 2**20}, {"data": {1}}):
        with pytest.raises(Invalid):
            commit(lambda c, v=value: complete_wait(c, wait.id, value=v, now=13.0))
    with pytest.raises(NotFound):
        commit(lambda c: complete_wait(c, WaitId("wait_none"), value={}, now=13.0))
    assert commit(lambda c: list_waits(c, run)) == [wait]
    assert commit(lambda c: read_entries(c, run)) == entries


def test_waits_come_in_pages(commit: Any) -> None:
    run, epoch = commit.claimed()
    made = [make(commit, run, epoch, n).id for n in (1, 2, 3)]
    first = commit(lambda c: list_waits(c, narrowed=Narrowed(limit=2)))
    assert [wait.id for wait in first] == sorted(made)[:2]
    rest = commit(lambda c: list_waits(c, narrowed=Narrowed(limit=2, after=first[-1].id)))
    assert [wait.id for wait in rest] == sorted(made)[2:]


def test_a_wait_that_is_refused_fails_at_once_and_for_good(commit: Any) -> None:
    run, epoch = commit.claimed()
    error = {"type": "Invalid", "message": "the schema is no schema"}
    wait = make(commit, run, epoch, schema={"type": "nope"}, remind_after=[5.0], refused=error)
    assert (wait.state, wait.remind_at) == ("refused", None)
    assert wait.outcome == {"ok": False, "error": error}
    (record,) = commit(lambda c: journal(c, run, 0))
    assert (record["ok"], record["error"]) == (False, error)
    assert make(commit, run, epoch, schema={"type": "nope"}) == wait  # a recovered machine
    with pytest.raises(Conflict, match="was refused already"):
        commit(lambda c: complete_wait(c, wait.id, value={}, now=15.0))


def test_waits_that_ask_the_same_have_one_answer(commit: Any) -> None:
    asked: dict[str, Any] = {"id_key": "budget", "schema": {"type": "integer"}}
    (one, epoch), (two, _) = commit.claimed(), commit.claimed()
    first, second = make(commit, one, epoch, **asked), make(commit, two, epoch, **asked)
    other = make(commit, two, epoch, 2, id_key="budget")  # of another schema
    lost = make(commit, two, epoch, 3, **asked)
    commit(lambda c: complete_wait(c, lost.id, value={"status": "timeout"}, now=13.0))
    value = {"data": 7}
    ended = commit(lambda c: answer_wait(c, second, value=value, now=14.0, by="ann"))
    assert [(w.id, w.value["data"], w.by) for w in ended] == [
        (second.id, 7, "ann"),
        (first.id, 7, "ann"),
    ]
    assert commit(lambda c: list_waits(c)) == [other]
    third, _ = commit.claimed()
    late = make(commit, third, epoch, **asked)
    assert (late.state, late.value, late.by) == ("completed", ended[0].value, "ann")
    with pytest.raises(Conflict, match="answered already"):
        commit(lambda c: answer_wait(c, first, value=value, now=15.0))


def test_waits_are_found_by_agent_text_and_kind(commit: Any) -> None:
    also = {"version": commit.version, "agent": "planner", "input": {}, "now": 10.0}
    run = commit(lambda c: create_run(c, **also).id)
    epoch = commit(lambda c: claim(c, run, 11.0))
    make(commit, *commit.claimed(), prompt="Of no agent", data="%d%")
    first = make(commit, run, epoch, 1, prompt="Send 5 % off?", approve=True, data={"to": "Zoë"})
    second = make(commit, run, epoch, 2, prompt="Which day?")

    def found(**how: Any) -> list[WaitId]:
        return [wait.id for wait in commit(lambda c: list_waits(c, narrowed=Narrowed(**how)))]

    assert found(agent="planner") == found(text=run) == [first.id, second.id]
    assert found(agent="nobody") == found(text="%zz%") == []
    assert found(text="5 %") == found(text="zo") == found(approve=True) == [first.id]
    assert found(text="Zoë") == [first.id]
    assert (
        found(text="ok#2") == found(approve=False, agent="planner", kinds=["wait"]) == [second.id]
    )
    assert commit(lambda c: agents_of(c, [first, second])) == {run: "planner"}
