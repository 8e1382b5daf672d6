"""Runs, and the records beside them: agents, snapshots, references."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import JSON, Connection
from tests.unit.contextlog.conftest import claimable

from torpor.contextlog import schema
from torpor.contextlog.agents import (
    NewAgent,
    agent_source,
    get_agent,
    list_agents,
    put_agent,
    set_template,
)
from torpor.contextlog.entries import read_entries
from torpor.contextlog.runs import (
    RunRow,
    claim,
    create_run,
    get_run,
    list_runs,
    live_figures,
    request_cancel,
    runs_in,
    transition,
)
from torpor.contextlog.snapshots import (
    NewSnapshot,
    list_snapshots,
    newest_snapshot,
    record_snapshot,
)
from torpor.contextlog.waits import NewWait, create_wait, get_wait
from torpor.core.errors import Conflict, InternalError, Invalid, NotFound, StaleEpoch
from torpor.core.ids import AgentVersion, Epoch, OpId
from torpor.core.starting import Start
from torpor.core.states import FINAL, RunState

FIGURES: dict[str, Any] = {"manifest": "m", "bytes": 9, "pause_ms": 1.0, "freeze_ms": 2.0}


def test_time_is_counted_by_state(commit: Any) -> None:
    run = commit.queued()  # at 10
    queued = commit(lambda c: get_run(c, run))
    assert live_figures(queued, 15.0) == (0.0, 0.0)
    epoch = commit(lambda c: claim(c, run, 20.0))
    assert live_figures(commit(lambda c: get_run(c, run)), 23.0) == (3.0, 0.0)
    commit(lambda c: transition(c, run, epoch, RunState.SUSPENDED, 25.0))
    assert live_figures(commit(lambda c: get_run(c, run)), 125.0) == (5.0, 100.0)
    epoch = commit(lambda c: claim(c, run, 125.0))
    epoch = commit(lambda c: claim(c, run, 127.0))
    done = commit(lambda c: transition(c, run, epoch, RunState.COMPLETED, 128.0, result=[1]))
    assert live_figures(done, 999.0) == (8.0, 100.0) == (done.ran_s, done.slept_s)
    assert (done.created_at, done.started_at, done.ended_at) == (10.0, 20.0, 128.0)
    # A clock that was set back takes nothing away.
    assert live_figures(queued, 0.0) == (0.0, 0.0)
    assert done.to_json(now=999.0) == {
        "id": run,
        "version": commit.version,
        "agent": None,
        "engine": "qemu",
        "state": "completed",
        "input": {"n": 1},
        "result": [1],
        "error": None,
        "epoch": 3,
        "last_seq": 6,
        "origin": None,
        "origin_seq": None,
        "parent": None,
        "queue": "agent",
        "queue_key": None,
        "priority": 0,
        "not_before": None,
        "expires_at": None,
        "after": None,
        "successor": None,
        "attempt": 1,
        "schedule": None,
        "env": [],
        "created_at": 10.0,
        "started_at": 20.0,
        "ended_at": 128.0,
        "ran_s": 8.0,
        "slept_s": 100.0,
        "state_since": 128.0,
    }


@pytest.mark.parametrize("final", sorted(FINAL))
def test_an_ended_run_stays_ended(commit: Any, final: RunState) -> None:
    run, epoch = commit.claimed()
    error = {"type": "E", "message": "m"} if final is not RunState.COMPLETED else None
    ended = commit(lambda c: transition(c, run, epoch, final, 12.0, error=error))
    assert (ended.state, ended.error, ended.ended_at) == (final, error, 12.0)
    for to in RunState:
        if to is not RunState.RUNNING:
            with pytest.raises(Conflict, match=f"is {final.value} already"):
                commit(lambda c, to=to: transition(c, run, None, to, 13.0))
            with pytest.raises(StaleEpoch, match=f"which is {final.value}"):
                commit(lambda c, to=to: transition(c, run, epoch, to, 13.0))
    with pytest.raises(Conflict):
        commit(lambda c: claim(c, run, 13.0))
    with pytest.raises(Conflict):
        commit(lambda c: request_cancel(c, run, 12.0))
    assert commit(lambda c: get_run(c, run)) == ended
    (*_, last) = commit(lambda c: read_entries(c, run))
    assert last.kind == f"run.{final.value}"
    assert last.data == ({"error": error} if error else {"result": None})


def test_moves_that_the_table_lacks_are_refused(commit: Any) -> None:
    run = commit.queued()
    for to in (RunState.SUSPENDED, RunState.COMPLETED, RunState.QUEUED):
        with pytest.raises(Conflict, match=f"is queued and cannot become {to.value}"):
            commit(lambda c, to=to: transition(c, run, None, to, 12.0))
    with pytest.raises(InternalError, match="claim"):
        commit(lambda c: transition(c, run, None, RunState.RUNNING, 12.0))
    epoch = commit(lambda c: claim(c, run, 12.0))
    with pytest.raises(StaleEpoch):
        commit(lambda c: transition(c, run, Epoch(epoch - 1), RunState.FAILED, 13.0))
    for result in (float("inf"), "x" * 2**20, {1}):
        with pytest.raises(Invalid):
            commit(
                lambda c, r=result: transition(c, run, epoch, RunState.COMPLETED, 13.0, result=r)
            )
    assert commit(lambda c: get_run(c, run)).state is RunState.RUNNING


def test_an_id_key_makes_one_run(commit: Any) -> None:
    make: dict[str, Any] = {"version": commit.version, "agent": "a", "now": 1.0}

    def start(key: str | None, n: int = 1) -> Any:
        return commit(lambda c: create_run(c, input={"n": n}, id_key=key, **make))

    first = start("k")
    assert start("k") == first
    with pytest.raises(Conflict, match=first.id):
        start("k", 2)
    assert start(None).id != start(None).id
    for key in ("", "k" * 257):
        with pytest.raises(Invalid):
            start(key)
    with pytest.raises(NotFound, match="agent version"):
        commit(lambda c: create_run(c, **{**make, "version": "none", "input": {}}))
    with pytest.raises(Invalid, match="the input must be a JSON object, not list"):
        commit(lambda c: create_run(c, **{**make, "input": []}))


def test_runs_are_listed_and_found_as_people_type_them(commit: Any) -> None:
    runs = sorted(commit.queued() for _ in range(4))
    commit(lambda c: claim(c, runs[1], 12.0))
    commit(lambda c: transition(c, runs[2], None, RunState.CANCELLED, 12.0))
    assert [r.id for r in commit(list_runs)] == runs[::-1]
    assert [r.id for r in commit(lambda c: list_runs(c, limit=2, before=runs[3]))] == [
        runs[2],
        runs[1],
    ]
    live = [RunState.QUEUED, RunState.RUNNING]
    assert [r.id for r in commit(lambda c: list_runs(c, live))] == [runs[3], runs[1], runs[0]]
    assert [r.id for r in commit(lambda c: runs_in(c, live))] == [runs[0], runs[1], runs[3]]
    assert [r.id for r in commit(claimable)] == [runs[0], runs[3]]

    shortest = next(n for n in range(21) if len({r[:n] for r in runs}) == 4)
    for ref in (runs[0], runs[0][:shortest], runs[0][4:shortest]):
        assert commit(lambda c, ref=ref: get_run(c, ref)).id == runs[0]
    with pytest.raises(NotFound, match="more than one run") as refused:
        commit(lambda c: get_run(c, runs[0][:8]))
    assert all(run in refused.value.hint for run in runs)
    mistyped = runs[0][:-3] + "uuu"
    with pytest.raises(NotFound, match=f"no run '{mistyped}'") as refused:
        commit(lambda c: get_run(c, mistyped))
    assert runs[0] in refused.value.hint
    for ref in ("", "run_", "%", "nonsense"):
        with pytest.raises(NotFound):
            commit(lambda c, ref=ref: get_run(c, ref))


def test_snapshots_are_ordered_by_epoch_and_place(commit: Any) -> None:
    run, first = commit.claimed()
    assert commit(lambda c: newest_snapshot(c, run)) is None

    def snap(epoch: Epoch, seq: int, now: float) -> Any:
        of: dict[str, Any] = {"run": run, "epoch": epoch, "seq": seq, "created_at": now}
        return commit(
            lambda c: record_snapshot(c, NewSnapshot(version=commit.version, **of, **FIGURES))
        )

    a = snap(first, 2, 50.0)
    second = commit(lambda c: claim(c, run, 51.0))
    b = snap(second, 4, 30.0)  # the clock was set back
    assert commit(lambda c: newest_snapshot(c, run)) == b
    assert commit(lambda c: list_snapshots(c, run)) == [b, a]
    with pytest.raises(StaleEpoch):
        snap(first, 2, 60.0)
    assert commit(lambda c: list_snapshots(c, run)) == [b, a]
    assert set(b.to_json()) == {
        *("id", "run", "epoch", "seq", "parent", "manifest", "bytes"),
        *("pause_ms", "freeze_ms", "created_at", "detail", "pinned", "reclaimed_at"),
    }
    told = commit(lambda c: read_entries(c, run, kinds=["snapshot"]))
    assert [e.data["snapshot"] for e in told] == [a.id, b.id]


def test_agents_are_kept_once_and_get_a_template(commit: Any) -> None:
    spec = {"memory_mib": 1}
    again = commit(
        lambda c: put_agent(
            c,
            NewAgent(
                engine="qemu", version=commit.version, name="n", entry="e", source=b"", spec=spec
            ),
            2.0,
        )
    )
    assert (again.name, again.first_at) == ("agent", 1.0)
    assert commit(lambda c: agent_source(c, commit.version)) == b"tar"
    template = commit(
        lambda c: record_snapshot(c, NewSnapshot(version=commit.version, created_at=3.0, **FIGURES))
    )
    assert (template.run, template.epoch, template.seq) == (None, 0, 0)
    offered = [{"name": "main", "doc": "", "params": []}]
    facts: dict[str, Any] = {"boot_ms": 1.5, "template_bytes": 7, "agents": offered}
    given = commit(lambda c: set_template(c, commit.version, template.id, **facts))
    assert given == commit(lambda c: get_agent(c, commit.version[:6]))
    assert commit(list_agents) == [given]
    assert given.to_json() == {
        "version": commit.version,
        "engine": "qemu",
        "name": "agent",
        "agents": offered,
        "template_bytes": 7,
        "boot_ms": 1.5,
        "first_at": 1.0,
        "deployed_at": 1.0,
    }
    with pytest.raises(NotFound):
        commit(lambda c: set_template(c, AgentVersion("none"), template.id, **facts))


def test_runs_are_found_by_agent_and_by_what_they_say(commit: Any) -> None:
    def make(c: Any, agent: str, **given: Any) -> str:
        return create_run(c, version=commit.version, agent=agent, input=given, now=1.0).id

    owls = commit(lambda c: make(c, "research", topic="100% Über_owls"))
    bats = commit(lambda c: make(c, "write", topic="bats"))
    commit(lambda c: claim(c, bats, 2.0))
    error = {"type": "ValueError", "message": "no ink"}
    commit(lambda c: transition(c, bats, Epoch(1), RunState.FAILED, 3.0, error=error))

    def found(**by: Any) -> list[str]:
        return [row.id for row in commit(lambda c: list_runs(c, **by))]

    assert found(agent="research") == [owls]
    assert found(agent="nobody") == []
    for text in ("OWLS", "100%", "Über_o", owls[-5:], "esearc"):
        assert found(text=text) == [owls], text
    assert found(text="no ink") == [bats]
    assert found(text="topic") == [bats, owls]
    assert found(text="topic", limit=1) == [bats]
    assert found(text="topic", before=bats) == [owls]
    assert found(text="%bats%") == found(text="x" * 200) == []


EXACT = (2**80, -(2**64), -0.0, 0, 1e22, 5e-324, 10**400, "1e5", "007", " 12", True, [2**80], "")


@pytest.mark.parametrize("value", EXACT, ids=lambda value: repr(value)[:12])
def test_values_come_back_as_they_were(commit: Any, value: Any) -> None:
    """In columns of their own, too: a bare number is not a number of SQLite's."""
    run, epoch = commit.claimed()
    named = {"op": OpId("wait:w#1"), "name": "w", "digest": "d" * 32, "data": value}
    wait = commit(lambda c: create_wait(c, run, epoch, NewWait(kind="wait", **named), 12.0))
    done = commit(lambda c: transition(c, run, epoch, RunState.COMPLETED, 13.0, result=value))
    assert repr(done.result) == repr(value)
    assert repr(commit(lambda c: get_wait(c, wait.id)).data) == repr(value)


def test_columns_of_json_are_text(commit: Any) -> None:
    query = "SELECT m.name, t.name, t.type FROM sqlite_master m, pragma_table_info(m.name) t"
    declared = {(table, name): kind for table, name, kind in commit(lambda c: sql(c, query))}
    columns = [
        (table.name, column.name)
        for table in schema.metadata.sorted_tables
        for column in table.c
        if isinstance(column.type, JSON)
    ]
    assert len(columns) > 15
    assert {declared[each] for each in columns} == {"TEXT"}


def sql(c: Connection, query: str) -> list[Any]:
    return list(c.exec_driver_sql(query).all())


def test_the_environment_of_a_run_is_kept_and_not_shown(commit: Any) -> None:
    def made(env: dict[str, str]) -> RunRow:
        start = Start(env=env)
        given: dict[str, Any] = {"version": commit.version, "agent": None, "input": {}}
        row: RunRow = commit(lambda c: create_run(c, **given, id_key="k", start=start, now=1.0))
        return row

    row = made({"B": "hidden", "A": "1"})
    assert row.env == {"B": "hidden", "A": "1"} and row.to_json()["env"] == ["A", "B"]
    assert made({"A": "1", "B": "hidden"}).id == row.id
    with pytest.raises(Conflict, match="with other environment variables"):
        made({"A": "1"})
    log = commit(lambda c: read_entries(c, row.id))
    assert log[0].data["env"] == ["A", "B"] and "hidden" not in str(log)
