from __future__ import annotations

from typing import Any

import pytest
from tests.unit.contextlog.test_log_queues import Log

from torpor.contextlog import runs, schedules
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.deployments import retire
from torpor.contextlog.runs import RunRow
from torpor.control.scheduler.schedules import fire_due
from torpor.core.errors import Conflict, NotFound
from torpor.core.ids import AgentVersion
from torpor.core.states import RunState

MINUTE = 60.0
AGENT: dict[str, Any] = {"name": "a", "doc": None, "params": [], "open": False}
SETTINGS = {
    "agent": "g:a",
    "input": {},
    "cron": "* * * * *",
    "zone": "UTC",
    "jitter_s": 0.0,
    "overlap": "skip",
    "missed": "all",
    "queue": None,
    "priority": 0,
}


class Scheduled(Log):
    def __init__(self) -> None:
        super().__init__()
        self.now = 6000.0
        version = AgentVersion("b" * 32)
        agent: dict[str, Any] = {"name": "g", "entry": "g.py", "source": b"", "spec": {}}
        put_agent(self.c, NewAgent(engine="qemu", version=version, **agent, agents=[AGENT]), 1.0)

    def add(self, **changes: Any) -> None:
        settings = {**SETTINGS, **changes}
        schedules.add_schedule(self.c, "s", settings, 6000.0, 6000.0, 1.0, replace=False)

    def fire(self, after_s: float = 0.0) -> list[RunRow]:
        """The runs that there are then, oldest first."""
        self.now += after_s
        fire_due(self.c, self.now)
        return self.all()[::-1]

    def row(self) -> schedules.ScheduleRow:
        return schedules.get_schedule(self.c, "s")


@pytest.fixture
def log() -> Any:
    log = Scheduled()
    yield log
    log.close()


def test_a_time_fires_once_whatever_crashes(log: Scheduled) -> None:
    log.add()
    (run,) = log.fire()
    assert (run.schedule, run.id_key, run.agent) == ("s", "schedule s 6000", "a")
    assert log.fire() == [run]
    # As if the write that fired had been made, and that it was had been forgotten.
    schedules.set_schedule(log.c, "s", next_time=6000.0, next_at=6000.0)
    assert log.fire() == [run]
    assert log.row().next_at == 6060.0 == schedules.next_due(log.c)


def test_while_the_last_one_runs_the_next_is_skipped(log: Scheduled) -> None:
    log.add()
    (run,) = log.fire()
    assert log.fire(MINUTE) == [run]
    assert "had not ended" in str(log.row().trouble)
    log.claim(run.id)
    log.end(run.id, RunState.FAILED)
    assert len(log.fire(MINUTE)) == 2
    assert log.row().trouble is None


def test_or_it_waits_for_it(log: Scheduled) -> None:
    log.add(overlap="queue")
    log.fire()
    log.fire(MINUTE)
    first, second, third = log.fire(MINUTE)
    assert (second.after, third.after) == (first.id, second.id)
    assert log.next() == [first.id]
    for one, other in ((first, second), (second, third)):
        log.claim(one.id)
        log.end(one.id, RunState.SUSPENDED)
        assert log.next() == []
        log.end(one.id, RunState.CANCELLED)
        assert log.next() == [other.id]


def test_or_takes_its_place(log: Scheduled) -> None:
    log.add(overlap="cancel-old")
    (first,) = log.fire()
    log.fire(MINUTE)
    old, new = (runs.get_run(log.c, row.id) for row in log.all()[::-1])
    assert old.id == first.id and old.cancel_requested and not new.cancel_requested


def test_times_that_nobody_was_there_for(log: Scheduled) -> None:
    log.add(overlap="queue")
    made = log.fire(5 * MINUTE + 1)
    assert [run.id_key for run in made] == [f"schedule s {6000 + 60 * n}" for n in range(6)]
    assert log.row().next_at == 6360.0


def test_a_paused_schedule_fires_nothing(log: Scheduled) -> None:
    log.add()
    schedules.set_schedule(log.c, "s", paused=True)
    assert log.fire() == [] and schedules.next_due(log.c) is None


def test_a_run_that_cannot_be_made_is_told(log: Scheduled) -> None:
    log.add(agent="nobody")
    assert log.fire() == []
    assert "nobody" in str(log.row().trouble) and log.row().next_at == 6060.0


def test_its_name_is_its_dedup_key(log: Scheduled) -> None:
    log.add()
    log.fire()
    log.add()
    assert log.row().last_run is not None
    with pytest.raises(Conflict, match="already a different schedule"):
        log.add(cron="5 * * * *")
    schedules.remove_schedule(log.c, "s")
    with pytest.raises(NotFound):
        log.row()


def test_a_schedule_keeps_to_the_agent_it_was_made_for(log: Scheduled) -> None:
    mine = AgentVersion("c" * 32)
    agent: dict[str, Any] = {"name": "mail", "entry": "mail.py", "source": b"", "spec": {}}
    put_agent(
        log.c,
        NewAgent(engine="qemu", version=mine, **agent, agents=[AGENT], origin="/pa/mail.py"),
        2.0,
    )
    log.add(agent="mail", origin="/pa/mail.py", overlap="cancel-old")
    other = AgentVersion("d" * 32)
    put_agent(
        log.c,
        NewAgent(engine="qemu", version=other, **agent, agents=[AGENT], origin="/pb/mail.py"),
        3.0,
    )
    (run,) = log.fire()
    assert (run.version, log.row().trouble) == (mine, None)
    retire(log.c, "pa/mail")
    log.fire(MINUTE)
    assert "no agent 'mail' is deployed" in str(log.row().trouble)
