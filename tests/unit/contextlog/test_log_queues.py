"""Queues over the log: what is chosen. `test_log_races.py` has it among all else that happens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event

from torpor.contextlog import deadlines, queues, runs
from torpor.contextlog.agents import NewAgent, deployed_again, put_agent
from torpor.contextlog.runs import RunRow
from torpor.control.scheduler.claims import next_runs, reasons
from torpor.core.errors import Invalid, NotFound, StaleEpoch
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.core.starting import Start
from torpor.core.states import FINAL, RunState
from torpor.engine.qemu import NAME as QEMU
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine

VERSION = AgentVersion("a" * 32)
ROOM = 5
LIMITS: dict[str, dict[str, Any]] = {
    "a": {"concurrency": 2, "per_key": 1},
    "b": {"rate": "3/10s", "per_key": 2},
    "c": {},
}


class Log:
    """A log in memory."""

    def __init__(self) -> None:
        self.engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
        self.c: Connection = self.engine.connect()
        self.now = 1000.0
        prepare(self.c)
        put_agent(
            self.c,
            NewAgent(engine="qemu", version=VERSION, name="f", entry="f.py", source=b"", spec={}),
            1.0,
        )
        queues.declare_queues(self.c, LIMITS, 1.0)

    def close(self) -> None:
        self.c.close()
        self.engine.dispose()

    def make(self, queue: str | None = None, **start: Any) -> RunId:
        how = Start(queue=queue, **start)
        made = runs.create_run(
            self.c, version=VERSION, agent="a", input={}, start=how, now=self.now
        )
        return made.id

    def all(self) -> list[RunRow]:
        return runs.list_runs(self.c, limit=1000)

    def next(self, room: int = ROOM, held: tuple[RunId, ...] = ()) -> list[RunId]:
        taken = sum(row.state is RunState.RUNNING for row in self.all())
        found = next_runs(self.c, {QEMU: room - taken}, held, self.now)
        return [row.id for row in found.rows]

    def why(self, run: RunId, room: dict[str, int] | None = None) -> str | None:
        rooms = {QEMU: 9} if room is None else room
        return reasons(self.c, [runs.get_run(self.c, run)], rooms, (), self.now).get(run)

    def claim(self, run: RunId) -> None:
        runs.claim(self.c, run, self.now)

    def end(self, run: RunId, to: RunState) -> None:
        runs.transition(self.c, run, None, to, self.now, error={} if to in FINAL else None)


@pytest.fixture
def log() -> Any:
    log = Log()
    yield log
    log.close()


def test_the_highest_priority_goes_first_then_the_oldest(log: Log) -> None:
    low, old, new, high = (log.make("c", priority=n) for n in (-1, 0, 0, 5))
    assert log.next() == [high, *sorted([old, new]), low]
    assert log.next(room=1) == [high]


def test_a_full_queue_or_key_holds_up_no_other(log: Log) -> None:
    x = [log.make("a", key="x", priority=3), log.make("a", key="x", priority=2)]
    y, z, c = log.make("a", key="y", priority=1), log.make("a"), log.make("c", priority=-1)
    assert log.next() == [x[0], y, c]
    log.claim(x[0])
    log.claim(y)
    assert log.next() == [c]
    log.end(x[0], RunState.SUSPENDED)  # it sleeps, and holds no slot
    assert log.next() == [x[1], c]
    log.claim(x[1])
    log.end(y, RunState.FAILED)
    assert log.next() == [z, c]


def test_what_is_about_to_be_claimed_counts(log: Log) -> None:
    made = [log.make("a") for _ in range(4)]
    chosen = log.next()
    assert len(chosen) == 2
    assert log.next(held=tuple(chosen)) == []
    assert set(chosen) < set(made)


def test_a_rate_counts_starts_and_says_when_to_look_again(log: Log) -> None:
    for _ in range(5):
        log.make("b")
    chosen = log.next()
    assert len(chosen) == 3
    for run in chosen:
        log.claim(run)
    log.end(chosen[0], RunState.SUSPENDED)
    found = next_runs(log.c, {QEMU: 9}, (), log.now)
    assert found.rows == [] and found.again_at == log.now + 10
    log.now += 10.1
    assert len(log.next()) == 2


def test_a_paused_queue_starts_nothing_but_cancels(log: Log) -> None:
    one, other = log.make("c"), log.make("c")
    queues.set_queue(log.c, "c", 1.0, paused=True)
    assert log.next() == []
    runs.request_cancel(log.c, one, log.now)
    assert log.next() == [one]
    queues.set_queue(log.c, "c", 1.0, paused=False)
    assert set(log.next()) == {one, other}


def test_a_delayed_run_is_due_and_an_expired_one_cancelled(log: Log) -> None:
    late = log.make("c", delay_s=60, expires_s=30)
    soon = log.make("c", expires_s=30)
    assert log.next() == [soon]
    assert deadlines.next_due(log.c) == log.now + 30
    log.now += 31
    deadlines.end_due(log.c, log.now)
    row = runs.get_run(log.c, soon)
    assert row.state is RunState.CANCELLED and (row.error or {})["type"] == "Expired"
    log.now += 30
    deadlines.end_due(log.c, log.now)
    assert log.next() == [late]
    assert deadlines.next_due(log.c) == log.now - 61 + 90
    log.claim(late)
    assert deadlines.next_due(log.c) is None


def test_what_a_run_only_waited_with_a_machine_does_not_count(log: Log) -> None:
    deployed_again(log.c, VERSION, {"rules": {"max_compute": "1h"}}, 1.0)
    run = log.make()
    log.claim(run)
    assert deadlines.next_due(log.c) == 4600.0
    deadlines.waited(log.c, run, Epoch(1), 100.0, 1500.0)
    assert deadlines.next_due(log.c) == 4700.0
    log.now = 2000.0
    log.claim(run)  # its machine was lost
    assert deadlines.next_due(log.c) == 4700.0
    with pytest.raises(StaleEpoch):
        deadlines.waited(log.c, run, Epoch(1), 200.0, log.now)
    log.now = 4000.0
    log.end(run, RunState.SUSPENDED)
    assert deadlines.next_due(log.c) is None
    log.now = 9000.0
    log.claim(run)
    assert deadlines.next_due(log.c) == 9700.0
    deadlines.end_due(log.c, 9700.0)
    assert runs.get_run(log.c, run).state is RunState.RUNNING
    assert "max_compute" in (deadlines.overrun(log.c, run, 9700.0) or "")
    deadlines.waited(log.c, run, Epoch(3), 100.1, 9700.0)
    assert deadlines.overrun(log.c, run, 9700.0) is None
    assert deadlines.next_due(log.c) == 9701.0


def test_whose_queue_a_run_is_in(log: Log) -> None:
    assert runs.get_run(log.c, log.make()).queue == "f:a"
    with pytest.raises(Invalid, match="not a name"):
        log.make(" ")
    with pytest.raises(NotFound):
        queues.get_queue(log.c, "nowhere")


def test_nothing_that_sleeps_is_read(log: Log) -> None:
    for _ in range(3):
        run = log.make("c")
        log.claim(run)
        log.end(run, RunState.SUSPENDED)
    plans: list[str] = []

    def plan(conn: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith("SELECT"):
            raw = conn.connection.driver_connection
            rows = raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
            plans.extend(row[3] for row in rows)

    event.listen(log.c, "before_cursor_execute", plan)
    queues.first_wanting(log.c, "c", [QEMU], 5, but=[RunId("run_1")], keys=["k"])
    queues.wanting(log.c)
    queues.cancelled_at_rest(log.c, 5)
    queues.running(log.c, ["c"])
    queues.starts_since(log.c, "c", 0.0, 5)
    deadlines.end_due(log.c, 0.0)
    for each in plans:
        assert not re.match("SCAN runs(?! USING)|.*TEMP B-TREE", each), plans
    # Of each queue only what wants a machine: in `first_wanting` and in `wanting`.
    assert sum("runs_ready (queue=?)" in each for each in plans) == 2, plans
    for name in ("runs_ready", "runs_to_cancel", "runs_due", "runs_by_queue", "runs_by_start"):
        assert any(name in each for each in plans), (name, plans)


def test_a_run_that_waits_for_a_machine_says_why(log: Log) -> None:
    first, second, third, fourth = (log.make("a", key=key) for key in "xxyz")
    assert log.why(first) == "it is its turn"
    assert log.why(first, {QEMU: 0}) == "the host runs as many agents as it can"
    assert log.why(first, {}) == "the engine qemu is not ready yet"
    log.claim(first)
    assert log.why(first) is None
    assert log.why(second) == "queue a is full for key x: 1 of it run"
    log.claim(third)
    assert log.why(fourth) == "queue a is full: 2 of 2 run"
    queues.set_queue(log.c, "a", log.now, paused=True)
    assert log.why(fourth) == "queue a is paused (torpor queues resume a)"
    assert log.why(log.make("c", delay_s=5.0)) == "its delay is not over"


def test_a_rate_says_when_the_next_starts(log: Log) -> None:
    for _ in range(3):
        log.claim(log.make("b"))
    log.now += 4
    assert log.why(log.make("b")) == "queue b starts 3/10s: the next in 6 s"


def test_who_sleeps_wants_no_machine(log: Log) -> None:
    run = log.make("a")
    log.claim(run)
    log.end(run, RunState.SUSPENDED)
    assert log.why(run) is None
