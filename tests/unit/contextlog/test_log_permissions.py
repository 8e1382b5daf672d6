"""For what a person's decision counts: attempts 34 and 45 of the way out."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from torpor.contextlog import forks, permissions, runs, schema, waits
from torpor.contextlog.deletion import delete_run, mark
from torpor.contextlog.entries import NewEntry, append, read_entries
from torpor.contextlog.runs import claim, get_run
from torpor.contextlog.transfer import read_run, stream_entries, write_run
from torpor.contextlog.waits import NewWait, WaitRow, answer_wait, create_wait, get_wait
from torpor.core.errors import Invalid
from torpor.core.ids import Epoch, OpId, RunId
from torpor.core.permissions import digest, op_name
from torpor.core.states import RunState

REQUEST: dict[str, Any] = {
    "scheme": "https",
    "host": "api.example.com",
    "port": 443,
    "method": "POST",
    "target": "/orders",
    "headers": {},
    "body": "one",
}
ORDER: dict[str, Any] = {"request": REQUEST}
OTHER: dict[str, Any] = {"request": {**REQUEST, "body": "two"}}
ELSEWHERE: dict[str, Any] = {"request": {**REQUEST, "target": "/refunds"}}
SEND, AGAIN = OpId("http:send#1"), OpId("http:send#2")


class Asking:
    def __init__(self, commit: Any) -> None:
        self.commit = commit
        self.run: RunId
        self.epoch: Epoch
        self.run, self.epoch = commit.claimed()

    def ask(self, data: dict[str, Any] = ORDER, n: int = 1, due_at: float | None = None) -> WaitRow:
        name = op_name(data)
        op = OpId(f"permission:{name}#{n}")
        new = NewWait(op, name, digest(data)[:32], "permission", data=data, approve=True)
        new = NewWait(**{**vars(new), "due_at": due_at})
        made: WaitRow = self.commit(lambda c: create_wait(c, self.run, self.epoch, new, 12.0))
        return made

    def answer(self, wait: WaitRow, decision: str, reason: str | None = None) -> list[WaitRow]:
        data = {"decision": decision} | ({} if reason is None else {"reason": reason})
        value = {"data": data, "approved": decision != "deny", "note": reason}
        ended: list[WaitRow] = self.commit(
            lambda c: answer_wait(c, wait, value=value, now=13.0, by="ana", origin="the test")
        )
        return ended

    def permits(
        self, wait: WaitRow, op: OpId = SEND, data: dict[str, Any] = ORDER, run: RunId | None = None
    ) -> permissions.Verdict:
        of = run or self.run
        verdict: permissions.Verdict = self.commit(
            lambda c: permissions.permits(c, of, op, wait.op, data)
        )
        return verdict

    def fork(self) -> RunId:
        def write(c: Any) -> RunId:
            origin = get_run(c, self.run)
            fork = forks.fork_of(origin, forks.shared_end(c, origin))
            return forks.fork_run(c, origin, fork, lambda *_: b"", 20.0).id

        run: RunId = self.commit(write)
        return run


@pytest.fixture
def asking(commit: Any) -> Asking:
    return Asking(commit)


def test_a_decision_for_once_lets_one_operation_out(asking: Asking) -> None:
    wait = asking.ask()
    assert asking.permits(wait).reason == f"nobody has decided about {wait.op} yet"
    asking.answer(wait, "once")
    verdict = asking.permits(wait)
    assert verdict.allowed and (verdict.wait, verdict.by) == (wait.id, "ana")
    # The same operation again, after a crash.
    assert asking.permits(wait).allowed


def test_attempt_45_an_approval_is_not_used_twice(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "once")
    assert asking.permits(wait).allowed
    again = asking.permits(wait, AGAIN)
    assert not again.allowed and "has used it" in again.reason
    assert asking.permits(wait).allowed


def test_attempt_45_a_body_changed_after_the_approval_is_refused(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "once")
    changed = asking.permits(wait, data=OTHER)
    assert not changed.allowed and "not what" in changed.reason
    assert asking.permits(wait).allowed, "the refused one has used it up"


def test_attempt_45_a_timeout_denies(asking: Asking) -> None:
    wait = asking.ask(due_at=14.0)
    asking.commit(lambda c: waits.end_due(c, 15.0))
    verdict = asking.permits(wait)
    assert not verdict.allowed and "nobody decided about it in time" in verdict.reason


def test_a_denial_reaches_whoever_asked(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "deny", "not today")
    assert asking.permits(wait).reason == f"{wait.op} was denied by ana: not today"


def test_for_this_run_completes_what_is_asked_later_at_once(asking: Asking) -> None:
    first = asking.ask()
    asking.answer(first, "run")
    later = asking.ask(OTHER)
    assert later.state == "completed" and later.by == "ana"
    assert later.value is not None and later.value["data"] == {"decision": "run"}
    assert asking.permits(later, AGAIN, OTHER).allowed
    assert asking.permits(first, OpId("http:send#3"), OTHER).allowed
    assert asking.ask(ELSEWHERE).state == "open"
    assert not asking.permits(later, AGAIN, ELSEWHERE).allowed
    entries = asking.commit(lambda c: read_entries(c, asking.run))
    ended = [each.data for each in entries if each.kind == "wait.completed"]
    assert [each.get("origin") for each in ended] == ["the test", None]
    assert ended[1]["remembered"] == first.id


def test_for_this_run_completes_what_is_open_already(asking: Asking) -> None:
    first, second, third = asking.ask(), asking.ask(OTHER), asking.ask(ELSEWHERE)
    ended = asking.answer(first, "run")
    assert {each.id for each in ended} == {first.id, second.id}
    assert asking.commit(lambda c: get_wait(c, third.id)).state == "open"


def test_once_completes_nothing_else(asking: Asking) -> None:
    first, second = asking.ask(), asking.ask(OTHER)
    assert [each.id for each in asking.answer(first, "once")] == [first.id]
    assert asking.commit(lambda c: get_wait(c, second.id)).state == "open"


def test_attempt_34_another_run_has_no_use_of_an_approval(asking: Asking, commit: Any) -> None:
    wait = asking.ask()
    asking.answer(wait, "run")
    other = Asking(commit)
    assert "no permission" in asking.permits(wait, run=other.run).reason
    assert other.ask().state == "open"


def test_attempt_34_a_fork_asks_anew_for_what_was_approved_and_not_used(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "once")
    fork = asking.fork()
    (mine,) = asking.commit(lambda c: waits.list_waits(c, fork))
    assert (mine.op, mine.state) == (wait.op, "open")
    assert not asking.permits(wait, run=fork).allowed
    assert asking.permits(wait).allowed


def test_attempt_34_a_fork_keeps_what_was_used_as_history_and_no_more(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "run")
    begin = {"kind": "http", "name": "send", "digest": "0" * 32, "data": {"permission": wait.op}}

    def use(c: Any) -> None:
        assert permissions.permits(c, asking.run, SEND, wait.op, ORDER).allowed
        append(c, asking.run, asking.epoch, [NewEntry("op.begin", SEND, begin)], 14.0)

    asking.commit(use)
    fork = asking.fork()
    assert asking.commit(lambda c: waits.list_waits(c, fork)) == []
    assert not asking.permits(wait, SEND, run=fork).allowed
    epoch = asking.commit(lambda c: claim(c, fork, 21.0))
    theirs = Asking.__new__(Asking)
    theirs.commit, theirs.run, theirs.epoch = asking.commit, fork, epoch
    assert theirs.ask(OTHER).state == "open"


def test_a_fork_cannot_be_given_a_permission(asking: Asking) -> None:
    wait = asking.ask()
    asking.answer(wait, "deny")

    def write(c: Any) -> None:
        origin = get_run(c, asking.run)
        value = {"decision": "once"}
        fork = forks.fork_of(origin, forks.shared_end(c, origin), set={wait.op: value})
        forks.fork_run(c, origin, fork, lambda *_: b"", 20.0)

    with pytest.raises(Invalid, match="is a permission"):
        asking.commit(write)


def test_attempt_34_an_imported_copy_asks_anew(
    asking: Asking, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = type(asking.commit)(tmp_path_factory.mktemp("elsewhere") / "torpor.db")
    decided, still_open = asking.ask(), asking.ask(ELSEWHERE)
    asking.answer(decided, "once")
    asking.commit(lambda c: runs.suspend(c, asking.run, asking.epoch, 14.0))
    rows = asking.commit(lambda c: read_run(c, asking.run))
    entries = asking.commit(lambda c: list(stream_entries(c, asking.run)))
    elsewhere(lambda c: write_run(c, rows, entries, []))
    copy = Asking.__new__(Asking)
    copy.commit, copy.run = elsewhere, asking.run
    assert "no permission" in copy.permits(decided).reason
    copy.answer(elsewhere(lambda c: get_wait(c, still_open.id)), "once")
    assert copy.permits(still_open, data=ELSEWHERE).allowed
    elsewhere.close()


def test_what_is_deleted_leaves_no_permission(asking: Asking) -> None:
    asking.ask()
    asking.commit(lambda c: runs.transition(c, asking.run, asking.epoch, RunState.FAILED, 14.0))
    asking.commit(lambda c: delete_run(c, asking.run, mark(c, asking.run)))
    count = select(func.count()).select_from(schema.permissions)
    assert asking.commit(lambda c: c.scalar(count)) == 0


def test_the_last_that_was_allowed_is_found_to_compare_with(asking: Asking, commit: Any) -> None:
    def last(wait: WaitRow) -> Any:
        return commit(lambda c: permissions.last_allowed(c, wait.id))

    first = asking.ask()
    assert last(first) is None
    asking.answer(first, "once")
    denied = asking.ask(OTHER)
    asking.answer(denied, "deny")
    assert last(asking.ask(OTHER, n=2)) == ORDER
    assert last(asking.ask(ELSEWHERE)) is None
    # In another run of the same agent, too; its own come first.
    other = Asking(commit)
    assert last(other.ask(OTHER)) == ORDER
