from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update
from tests.unit.contextlog.conftest import Commit

from torpor.contextlog import children, deadlines, runs, schema, transfer, waits
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.deployments import choose_current
from torpor.contextlog.entries import read_entries
from torpor.contextlog.forks import fork_of, fork_run, forked, retry_of
from torpor.contextlog.runs import RunRow
from torpor.contextlog.waits import WaitRow
from torpor.core.errors import Conflict, Invalid, NotFound, StaleEpoch
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq
from torpor.core.inputs import check_input
from torpor.core.states import RunState
from torpor.sdk.errors import ChildFailed, type_name

NEWER = AgentVersion("b" * 32)
OFFERED = [
    {"name": name, "doc": None, "params": [{"name": "n", "required": True}], "open": False}
    for name in ("work", "rest")
]


def asked(
    n: int,
    agent: str = "work",
    *,
    own: bool = True,
    start: dict[str, Any] | None = None,
    **given: Any,
) -> dict[str, Any]:
    data = {"agent": agent, "own": own, "input": given or {"n": n}}
    data |= {} if start is None else {"start": start}
    op = OpId(f"child:{agent}#{n}")
    return {"op": op, "kind": "child", "name": agent, "digest": f"{n:032x}", "data": data}


class Family:
    def __init__(self, commit: Commit) -> None:
        self.commit = commit
        offered = {"agents": OFFERED}
        commit(lambda c: c.execute(update(schema.agents).values(**offered)))
        self.parent, self.epoch = commit.claimed()

    def spawn(self, *several: dict[str, Any]) -> list[WaitRow]:
        return self.commit(
            lambda c: children.spawn(c, self.parent, self.epoch, several, check_input, 12.0)
        )

    def end(self, child: RunId | None, state: RunState, now: float = 13.0, **told: Any) -> None:
        assert child is not None
        run = child

        def write(c: Any) -> None:
            runs.claim(c, run, now)
            runs.transition(c, run, None, state, now, **told)

        self.commit(write)

    def row(self, run: RunId | None) -> RunRow:
        assert run is not None
        return self.commit(lambda c: runs.get_run(c, run))

    def seq(self, c: Any) -> Seq:
        return runs.get_run(c, self.parent).last_seq

    def wait(self, run: RunId, op: str) -> WaitRow:
        return self.commit(lambda c: waits.waits_for(c, run, [op])[OpId(op)])

    def deploy(self, version: AgentVersion, name: str, now: float) -> None:
        agent: dict[str, Any] = {"name": name, "entry": f"{name}.py", "source": b"", "spec": {}}
        self.commit(
            lambda c: put_agent(
                c, NewAgent(engine="qemu", version=version, **agent, agents=OFFERED), now
            )
        )


@pytest.fixture
def family(commit: Commit) -> Family:
    return Family(commit)


def test_a_child_is_spawned_once(family: Family) -> None:
    first, second = family.spawn(asked(1), asked(2))
    again, third = family.spawn(asked(1), asked(3))
    assert again == first and len({first.child, second.child, third.child}) == 3
    made = family.commit(lambda c: runs.children(c, family.parent))
    assert [row.input for row in made] == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert {row.parent for row in made} == {family.parent}
    assert {row.version for row in made} == {family.commit.version}


def test_a_child_is_started_as_was_asked(family: Family) -> None:
    how = {"queue": "mail", "key": "k", "priority": 3, "delay_s": 5.0, "expires_s": 8.0}
    there, plain, wrong = family.spawn(
        asked(1, start=how), asked(2), asked(3, start={"queue": " "})
    )
    row = family.row(there.child)
    assert (row.queue, row.queue_key, row.priority) == ("mail", "k", 3)
    assert (row.not_before, row.expires_at, row.ready) == (17.0, 25.0, False)
    assert family.row(plain.child).queue == "agent:work" and family.row(plain.child).ready
    assert wrong.value is not None and "queue: ' ' is not a name" in wrong.value["data"]["message"]
    begun = family.commit(lambda c: read_entries(c, family.parent, 0, ["op.begin"]))
    assert [each.data.get("start") for each in begun] == [how, None, {"queue": " "}]

    family.commit(lambda c: deadlines.end_due(c, 17.0))
    assert family.row(there.child).ready
    family.commit(lambda c: deadlines.end_due(c, 25.0))
    told = family.wait(family.parent, there.op)
    assert told.value is not None and told.value["status"] == "cancelled"
    assert told.value["data"]["type"] == "Expired"


def test_its_end_is_its_parents_answer(family: Family) -> None:
    done, failed, left = family.spawn(asked(1), asked(2), asked(3))
    family.end(done.child, RunState.COMPLETED, result=[1])
    error = {"type": "ValueError", "message": "no", "traceback": "long"}
    family.end(failed.child, RunState.FAILED, error=error)
    told = family.wait(family.parent, done.op)
    assert told.state == "completed" and told.value == {
        "status": "completed",
        "data": [1],
        "approved": None,
        "note": None,
        "by": done.child,
    }
    told = family.wait(family.parent, failed.op)
    assert told.value is not None and told.value["data"] == {"type": "ValueError", "message": "no"}
    assert family.row(family.parent).ready
    kinds = [e.kind for e in family.commit(lambda c: read_entries(c, family.parent))]
    assert kinds.count("wait.completed") == kinds.count("wait.failed") == 1
    assert family.wait(family.parent, left.op).state == "open"


def test_cancelling_a_parent_reaches_who_nobody_waits_for(family: Family) -> None:
    done, left, shared = family.spawn(asked(1), asked(2), asked(3))
    family.end(done.child, RunState.COMPLETED)
    at = family.row(family.parent).last_seq

    def fork(c: Any) -> RunRow:
        row = runs.get_run(c, family.parent)
        made = fork_run(c, row, fork_of(row, at), lambda *_: b"", 14.0)
        given_up = {"state": "cancelled", "value": {}, "completed_at": 14.0}
        mine = (schema.waits.c.run == made.id, schema.waits.c.child == left.child)
        c.execute(update(schema.waits).where(*mine).values(**given_up))
        return made

    family.commit(fork)
    family.commit(
        lambda c: runs.transition(c, family.parent, None, RunState.CANCELLED, 15.0, error={})
    )
    assert family.row(left.child).cancel_requested and family.row(left.child).ready
    assert not family.row(shared.child).cancel_requested
    assert family.row(done.child).state is RunState.COMPLETED


def test_a_fork_waits_for_the_same_child(family: Family) -> None:
    open_one, ended = family.spawn(asked(1), asked(2))
    at = family.row(family.parent).last_seq
    family.end(ended.child, RunState.COMPLETED, result=2)

    def fork(c: Any) -> RunRow:
        row = runs.get_run(c, family.parent)
        return fork_run(c, row, fork_of(row, at), lambda *_: b"", 14.0)

    made = family.commit(fork)
    assert family.wait(made.id, ended.op).value == family.wait(family.parent, ended.op).value
    described = family.commit(lambda c: forked(c, made))  # what ended stands before it
    assert described is not None and described["how"] == "fork"
    family.end(open_one.child, RunState.COMPLETED, result=1)
    for run in (made.id, family.parent):
        value = family.wait(run, open_one.op).value
        assert value is not None and value["data"] == 1
    assert len(family.commit(lambda c: runs.children(c, made.id))) == 2


def test_a_retry_retries_the_children_that_failed_it(family: Family) -> None:
    good, bad, unmade = family.spawn(asked(1), asked(2), asked(3, nonsense=1))
    family.end(good.child, RunState.COMPLETED, result=1)
    family.end(bad.child, RunState.FAILED, error={"type": "E", "message": "m"})
    value = family.wait(family.parent, bad.op).value
    assert value is not None
    raised = ChildFailed("work", value)
    error = {"type": type_name(ChildFailed), "message": str(raised)}
    family.commit(
        lambda c: runs.transition(c, family.parent, None, RunState.FAILED, 15.0, error=error)
    )

    def retry(c: Any) -> RunRow:
        row = runs.get_run(c, family.parent)
        return fork_run(c, row, retry_of(c, row), lambda *_: b"", 16.0)

    made = family.commit(retry)
    again = family.wait(made.id, bad.op)
    assert again.state == "open" and again.child != bad.child
    child = family.row(again.child)
    assert (child.origin, child.parent) == (bad.child, made.id)
    epoch = family.commit(lambda c: runs.claim(c, made.id, 17.0))
    known, fresh = family.commit(
        lambda c: children.spawn(
            c, made.id, epoch, [asked(2), asked(3, nonsense=1)], check_input, 18.0
        )
    )
    assert known == again and fresh.state == "failed"  # it does not fit this time either
    assert unmade.state == "failed"


@pytest.mark.parametrize(
    "wrong",
    [asked(1, "nobody"), asked(1, "nobody", own=False), asked(1, other=1)],
    ids=["none here", "none deployed", "input"],
)
def test_what_cannot_be_spawned_has_failed(family: Family, wrong: dict[str, Any]) -> None:
    (wait,) = family.spawn(wrong)
    assert wait.state == "failed" and wait.value is not None
    assert wait.value["data"]["type"] in ("Invalid", "NotFound")
    assert family.commit(lambda c: runs.children(c, family.parent)) == []


def test_children_are_nested_to_a_depth(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "DEPTH_MAX", 2)
    for _ in range(2):
        (wait,) = family.spawn(asked(1))
        assert wait.child is not None and wait.state == "open"
        family.parent = wait.child
        family.epoch = family.commit(lambda c: runs.claim(c, family.parent, 1.0))
    (wait,) = family.spawn(asked(1))
    assert wait.state == "failed"


def test_a_machine_that_lost_its_run_spawns_nothing(family: Family) -> None:
    family.epoch = Epoch(family.epoch - 1)
    with pytest.raises(StaleEpoch):
        family.spawn(asked(1))
    assert family.commit(lambda c: runs.children(c, family.parent)) == []


def test_others_are_of_their_current_version(family: Family) -> None:
    family.deploy(NEWER, "agent", 20.0)
    own, other = family.spawn(asked(1), asked(2, "agent:work", own=False))
    assert family.row(own.child).version == family.commit.version
    assert family.row(other.child).version == NEWER


def test_what_a_name_means(family: Family) -> None:
    def chosen(ref: str) -> tuple[str, str]:
        found = family.commit(lambda c: choose_current(c, ref))
        return found.row.version, found.agent["name"]

    assert chosen("agent:rest") == chosen("agent.py:rest") == (family.commit.version, "rest")
    assert chosen("rest") == (family.commit.version, "rest")
    with pytest.raises(Invalid, match="several agents"):
        chosen("agent")
    family.deploy(NEWER, "other", 20.0)
    with pytest.raises(Conflict, match="several deployed agents"):
        chosen("rest")
    assert chosen("other:rest") == (NEWER, "rest")
    with pytest.raises(NotFound):
        chosen("nobody")


def test_who_waits_for_a_child_is_not_exported(family: Family) -> None:
    (wait,) = family.spawn(asked(1))
    with pytest.raises(Conflict, match="waits for child runs"):
        family.commit(lambda c: transfer.read_run(c, family.parent))
    assert wait.child is not None
    child = wait.child
    assert family.commit(lambda c: transfer.read_run(c, child)).run["parent"] is None


def test_a_batch_is_one_write(family: Family) -> None:
    made = family.spawn(*map(asked, range(1, 1001)))
    rows = family.commit(lambda c: runs.children(c, family.parent))
    assert [row.id for row in rows] == [wait.child for wait in made]  # in their order
    assert family.row(family.parent).last_seq == Seq(2 + 1000)
    (entry,) = family.commit(lambda c: read_entries(c, rows[-1].id))
    assert (entry.seq, entry.kind) == (1, "run.created")


@pytest.mark.parametrize("patient", [True, False])
def test_who_waits_for_all_is_woken_by_the_last(family: Family, patient: bool) -> None:
    first, second, third = family.spawn(asked(1), asked(2), asked(3))
    family.end(first.child, RunState.COMPLETED)

    def suspend(c: Any) -> None:
        how = runs.Suspension(seen=family.seq(c), patient=patient)
        runs.suspend(c, family.parent, family.epoch, 14.0, how)

    family.commit(suspend)
    assert not family.row(family.parent).ready
    family.end(second.child, RunState.FAILED, 15.0, error={"type": "E", "message": ""})
    assert family.row(family.parent).ready is not patient
    family.end(third.child, RunState.COMPLETED, 16.0)
    assert family.row(family.parent).ready


def test_what_came_before_it_slept_counts(family: Family) -> None:
    first, second = family.spawn(asked(1), asked(2))
    seen = family.commit(family.seq)
    family.end(first.child, RunState.COMPLETED)
    family.end(second.child, RunState.COMPLETED)
    how = runs.Suspension(seen=seen, patient=True)
    family.commit(lambda c: runs.suspend(c, family.parent, family.epoch, 14.0, how))
    assert family.row(family.parent).ready
