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
from torpor.control.scheduler.claims import LARGE_MAX, Needs, next_runs, reasons
from torpor.core.errors import Invalid, NotFound, StaleEpoch
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.core.starting import Start
from torpor.core.states import FINAL, RunState
from torpor.engine.qemu import NAME as QEMU
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine
from torpor.policy.admission import Capacity, Room, Share, rank

VERSION = AgentVersion("a" * 32)
ROOM = 5
LIMITS: dict[str, dict[str, Any]] = {
    "a": {"concurrency": 2, "per_key": 1},
    "b": {"rate": "3/10s", "per_key": 2},
    "c": {},
}


NEEDS = Needs({QEMU: lambda mib: mib})


def space(left: int) -> Room:
    """For so many runs, whatever memory they take."""
    return Room(Capacity(1 << 20, left), frozenset({QEMU}))


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

    def make(self, queue: str | None = None, mib: int = 0, **start: Any) -> RunId:
        """Of an agent that asks for so much memory."""
        how, version = Start(queue=queue, **start), AgentVersion(f"{mib:032}") if mib else VERSION
        if mib:
            sized = NewAgent(
                engine="qemu",
                version=version,
                name="f",
                entry="f.py",
                source=b"",
                spec={"memory_mib": mib},
            )
            put_agent(self.c, sized, 1.0)
        made = runs.create_run(
            self.c, version=version, agent="a", input={}, start=how, now=self.now
        )
        return made.id

    def all(self) -> list[RunRow]:
        return runs.list_runs(self.c, limit=1000)

    def next(self, room: int = ROOM, held: tuple[RunId, ...] = ()) -> list[RunId]:
        taken = sum(row.state is RunState.RUNNING for row in self.all())
        found = next_runs(self.c, space(room - taken), NEEDS, held, self.now)
        return [row.id for row in found.rows]

    def why(self, run: RunId, room: Room | None = None) -> str | None:
        row = runs.get_run(self.c, run)
        return reasons(self.c, [row], room or space(9), NEEDS, (), self.now).get(run)

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
    found = next_runs(log.c, space(9), NEEDS, (), log.now)
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
    assert log.why(first, space(0)) == "the host runs as many agents as it can"
    assert log.why(first, Room(Capacity(1, 1))) == "the engine qemu is not ready yet"
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


def test_large_and_small_agents_share_the_hosts_memory(log: Log) -> None:
    sizes = (600, 700, 200, 100, 100)
    made = [log.make("c", mib=mib, priority=-n) for n, mib in enumerate(sizes)]
    older, large, *small = made
    at = Room(Capacity(1000, 9), frozenset({QEMU}))

    def room_of(held: dict[RunId, int]) -> Room:
        room = at.copy()
        for run, mib in held.items():
            room.take(Share(rank(-made.index(run), run), mib))
        return room

    def next_of(held: dict[RunId, int]) -> list[RunId]:
        room = room_of(held)
        return [row.id for row in next_runs(log.c, room, NEEDS, list(held), log.now).rows]

    assert next_of({}) == [older, small[0], small[1]]
    held = {older: 600, small[0]: 200, small[1]: 100}
    assert next_of(held) == []  # small[2] would take what is kept for the large one
    room = room_of(held)

    def why(run: RunId) -> str | None:
        row = runs.get_run(log.c, run)
        return reasons(log.c, [row], room, NEEDS, list(held), log.now).get(run)

    assert why(large) == "it takes 700 MiB, and the host has 100 MiB left"
    assert why(small[2]) == "it takes 100 MiB, which are kept for a larger run that goes first"
    log.claim(older)
    log.end(older, RunState.COMPLETED)
    del held[older]
    assert next_of(held) == [large]


def test_no_more_large_runs_are_looked_past_than_so_many(log: Log) -> None:
    for _ in range(LARGE_MAX + 20):
        log.make("c", mib=900)
    log.make("c", mib=1)
    room = Room(Capacity(1000, 9), frozenset({QEMU}), [Share(rank(9, "run"), 500)])
    read: list[str] = []
    event.listen(log.engine, "before_cursor_execute", lambda *args: read.append(args[2]))
    assert next_runs(log.c, room, NEEDS, (), log.now).rows == []
    assert len(read) < 20
