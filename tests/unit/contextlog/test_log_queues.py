"""Queues over the log: what is chosen, as any history of runs goes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import Connection, event

from torpor.contextlog import deadlines, queues, runs, schema
from torpor.contextlog.agents import put_agent
from torpor.contextlog.runs import RunRow
from torpor.contextlog.store import make_engine
from torpor.control.claims import next_runs
from torpor.model.engines import QEMU
from torpor.model.errors import Invalid, NotFound
from torpor.model.ids import AgentVersion, RunId
from torpor.model.starting import Start
from torpor.model.states import FINAL, RunState

VERSION = AgentVersion("a" * 32)
ROOM = 5
NAMES, KEYS = ["a", "b", "c"], [None, "x", "y"]
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
        schema.prepare(self.c)
        put_agent(self.c, version=VERSION, name="f", entry="f.py", source=b"", spec={}, now=1.0)
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


def test_whose_queue_a_run_is_in(log: Log) -> None:
    assert runs.get_run(log.c, log.make()).queue == "f:a"
    with pytest.raises(Invalid, match="no name"):
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
    for name in ("runs_ready", "runs_to_cancel", "runs_due", "runs_by_queue", "runs_by_start"):
        assert any(name in each for each in plans), (name, plans)


class Histories(RuleBasedStateMachine):
    """Whatever happens to runs, limits hold, and a slot that is free is given."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()

    def teardown(self) -> None:
        self.log.close()

    def pick(self, *states: RunState) -> RunId | None:
        found = [row.id for row in self.log.all() if row.state in states]
        return found[len(found) // 2] if found else None

    @rule(
        queue=st.sampled_from(NAMES),
        key=st.sampled_from(KEYS),
        priority=st.integers(-1, 1),
        delay_s=st.sampled_from([0.0, 0.0, 5.0]),
        expires_s=st.sampled_from([None, None, 8.0]),
    )
    def start(self, **how: Any) -> None:
        self.log.make(how.pop("queue"), **how)

    @rule(part=st.integers(1, ROOM))
    def claim(self, part: int) -> None:
        """A server, or what is left of it after a crash."""
        for run in self.log.next()[:part]:
            row = runs.get_run(self.log.c, run)
            if row.cancel_requested:
                self.log.end(run, RunState.CANCELLED)
            else:
                self.log.claim(run)

    @rule(to=st.sampled_from([RunState.SUSPENDED, RunState.FAILED, RunState.RUNNING]))
    def leave(self, to: RunState) -> None:
        if (run := self.pick(RunState.RUNNING)) is not None:
            if to is RunState.RUNNING:  # its machine was lost
                self.log.claim(run)
            else:
                self.log.end(run, to)

    @rule()
    def wake(self) -> None:
        if (run := self.pick(RunState.SUSPENDED)) is not None:
            self.log.c.execute(
                schema.runs.update().where(schema.runs.c.id == run).values(ready=True)
            )

    @rule()
    def cancel(self) -> None:
        if (run := self.pick(RunState.QUEUED, RunState.SUSPENDED)) is not None:
            runs.request_cancel(self.log.c, run, self.log.now)

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.log.now += seconds
        deadlines.end_due(self.log.c, self.log.now)

    @precondition(lambda self: self.log.all())
    @rule(queue=st.sampled_from(NAMES), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        queues.set_queue(self.log.c, queue, 1.0, paused=paused)

    @invariant()
    def limits_hold(self) -> None:
        running = [row for row in self.log.all() if row.state is RunState.RUNNING]
        by_queue = Counter(row.queue for row in running)
        by_key = Counter((row.queue, row.queue_key) for row in running if row.queue_key)
        assert by_queue["a"] <= 2 and len(running) <= ROOM
        assert all(count <= {"a": 1, "b": 2, "c": ROOM}[q] for (q, _), count in by_key.items())
        starts = [row.started_at for row in self.log.all() if row.queue == "b" and row.started_at]
        assert sum(at > self.log.now - 10 for at in starts) <= 3

    @invariant()
    def no_slot_is_leaked(self) -> None:
        """If nothing is chosen, each run that wants a machine is held up by what one can see."""
        if self.log.next():
            return
        rows = self.log.all()
        running = [row for row in rows if row.state is RunState.RUNNING]
        by_queue = Counter(row.queue for row in running)
        by_key = Counter((row.queue, row.queue_key) for row in running)
        paused = {queue.name for queue in queues.list_queues(self.log.c) if queue.paused}
        recent = sum((row.started_at or 0) > self.log.now - 10 for row in rows if row.queue == "b")
        for row in rows:
            if not row.ready or row.state not in (RunState.QUEUED, RunState.SUSPENDED):
                continue
            keyed = {"a": 1, "b": 2, "c": ROOM}[row.queue]
            assert (
                len(running) == ROOM
                or row.queue in paused
                or (row.queue == "a" and by_queue["a"] == 2)
                or (row.queue_key and by_key[row.queue, row.queue_key] == keyed)
                or (row.queue == "b" and row.state is RunState.QUEUED and recent >= 3)
            ), row


Histories.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_histories = Histories.TestCase
