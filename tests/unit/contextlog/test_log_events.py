"""Events are kept until they are waited for, and taken once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.contextlog.conftest import claimable

from torpor.contextlog import events
from torpor.contextlog.entries import read_entries
from torpor.contextlog.events import Sent, send_event, wait_for_event
from torpor.contextlog.forks import fork_of, fork_run
from torpor.contextlog.runs import claim, get_run, transition
from torpor.contextlog.transfer import RunRows, read_run, stream_entries, write_run
from torpor.contextlog.waits import WaitRow, end_due, list_waits
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import OpId, RunId, Seq
from torpor.core.states import RunState


def await_one(commit: Any, run: RunId, n: int, name: str = "paid", **more: Any) -> WaitRow:
    op, epoch = OpId(f"event:{name}#{n}"), commit(lambda c: get_run(c, run)).epoch
    fields: dict[str, Any] = {"op": op, "name": name, "digest": "d", "now": 12.0} | more
    wait = commit(lambda c: wait_for_event(c, run, epoch, **fields))
    assert isinstance(wait, WaitRow)
    return wait


def send(commit: Any, run: RunId, data: Any, name: str = "paid", **more: Any) -> Sent:
    sent = commit(lambda c: send_event(c, run, name, data, now=13.0, **more))
    assert isinstance(sent, Sent)
    return sent


def taken(wait: WaitRow | None) -> Any:
    assert wait is not None and wait.value is not None
    return wait.state, wait.value["data"]


def test_an_event_ends_the_oldest_wait_of_its_name_and_wakes_the_run(commit: Any) -> None:
    run, epoch = commit.claimed()
    first, second = await_one(commit, run, 1), await_one(commit, run, 2)
    await_one(commit, run, 1, name="other")
    commit(lambda c: transition(c, run, epoch, RunState.SUSPENDED, 13.0))
    sent = send(commit, run, {"pence": 3}, by="ann", event="e1")
    assert sent.taken is not None and sent.taken.id == first.id
    assert taken(sent.taken) == ("completed", {"pence": 3})
    assert sent.taken.by == "ann"
    assert sent.taken.outcome["value"]["event"] == sent.seq
    assert [row.id for row in commit(claimable)] == [run]
    assert send(commit, run, {"pence": 9}, event="e1") == Sent(run, sent.seq, again=True)
    assert [w.op for w in commit(lambda c: list_waits(c, run))] == [second.op, "event:other#1"]


def test_what_comes_early_is_kept_in_order_and_taken_once(commit: Any) -> None:
    run = commit.queued()
    for data in ("one", "two", None):
        assert send(commit, run, data).taken is None
    assert commit(lambda c: get_run(c, run)).state is RunState.QUEUED
    commit(lambda c: claim(c, run, 11.0))
    for n, data in enumerate(("one", "two", None), 1):
        assert taken(await_one(commit, run, n)) == ("completed", data)
    # A recovered machine begins again what it had begun: the same event, not the next.
    send(commit, run, "three")
    assert taken(await_one(commit, run, 1)) == ("completed", "one")
    assert taken(await_one(commit, run, 4)) == ("completed", "three")
    late = await_one(commit, run, 5, due_at=20.0)
    assert commit(lambda c: end_due(c, 21.0)) == [late]
    assert send(commit, run, "late").taken is None  # for the next that waits
    assert taken(await_one(commit, run, 6)) == ("completed", "late")


def test_what_cannot_be_taken_is_refused_and_changes_nothing(
    commit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, epoch = commit.claimed()
    monkeypatch.setattr(events, "KEPT_MAX", 2)
    kept = [send(commit, run, n) for n in range(2)]
    log = commit(lambda c: read_entries(c, run))
    with pytest.raises(Conflict, match="keeps 2 events"):
        send(commit, run, 3)
    wrong: tuple[tuple[Any, dict[str, Any]], ...] = (
        ("x" * 300_000, {}),
        ({1}, {}),
        (float("nan"), {}),
        (1, {"name": ""}),
        (1, {"name": "x" * 257}),
        (1, {"event": ""}),
    )
    for data, more in wrong:
        with pytest.raises(Invalid):
            send(commit, run, data, **more)
    assert commit(lambda c: read_entries(c, run)) == log
    assert taken(await_one(commit, run, 1)) == ("completed", 0)
    assert send(commit, run, 3, event="e").seq > kept[1].seq  # there is room again
    commit(lambda c: transition(c, run, epoch, RunState.COMPLETED, 14.0))
    with pytest.raises(Conflict, match="takes no more events"):
        send(commit, run, 4)
    assert send(commit, run, 3, event="e").again


def test_a_fork_has_what_was_kept_at_its_place(commit: Any) -> None:
    run, _ = commit.claimed()
    first = send(commit, run, "first", event="e1")
    await_one(commit, run, 1)
    second = send(commit, run, "second", event="e2")
    await_one(commit, run, 2)

    def forked(at: int) -> RunId:
        def make(c: Any) -> RunId:
            origin = get_run(c, run)
            return fork_run(c, origin, fork_of(origin, Seq(at)), lambda *_: b"", 20.0).id

        made = commit(make)
        commit(lambda c: claim(c, made, 21.0))
        return RunId(made)

    # Before it was waited for, before it was taken, between the ends of its wait and operation.
    for at in range(first.seq, first.seq + 3):
        assert taken(await_one(commit, forked(at), 1)) == ("completed", "first")
    fork = forked(second.seq)
    assert send(commit, fork, "again", event="e1").again
    assert taken(await_one(commit, fork, 2)) == ("completed", "second")
    before = forked(first.seq - 1)
    assert await_one(commit, before, 1).state == "open"
    # In the middle of its taking the wait is open for the fork: it has the event.
    middle = forked(first.seq + 1)
    (ended,) = commit(lambda c: list_waits(c, middle, open_only=False))
    assert taken(ended) == ("completed", "first")


def test_an_imported_run_has_them_too(commit: Any, tmp_path: Any) -> None:
    from tests.unit.contextlog.conftest import Commit

    run, epoch = commit.claimed()
    send(commit, run, "first", event="e1")
    send(commit, run, "second")
    await_one(commit, run, 1)
    commit(lambda c: transition(c, run, epoch, RunState.SUSPENDED, 13.0))
    rows, log = commit(lambda c: (read_run(c, run), list(stream_entries(c, run))))
    there = Commit(tmp_path / "there.db")
    try:
        odd = [{**wait, "tags": [1]} for wait in rows.waits]
        with pytest.raises(Invalid, match="malformed: tags"):
            there(lambda c: write_run(c, RunRows(rows.run, odd), log, []))
        with pytest.raises(Invalid, match="malformed: error"):
            there(lambda c: write_run(c, RunRows({**rows.run, "error": "x"}, rows.waits), log, []))
        there(lambda c: write_run(c, rows, log, []))
        there(lambda c: claim(c, run, 30.0))
        assert send(there, run, "first", event="e1").again
        assert taken(await_one(there, run, 1)) == ("completed", "first")
        assert taken(await_one(there, run, 2)) == ("completed", "second")
    finally:
        there.close()
