"""Runs that are tried again by themselves, as real processes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Connection

from torpor.contextlog import agents, deadlines, runs, schema
from torpor.contextlog.deployments import choose_current
from torpor.contextlog.runs import RunRow
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.states import FINAL, RunState
from torpor.policy.retries import Failure
from torpor.testing.clock import ManualClock
from torpor.testing.fakes.plain import Plain
from torpor.worker import retrying
from torpor.worker.standing import Result, Standing

pytestmark = pytest.mark.anyio

AGENTS = """
import time, torpor

@torpor.step
def costly():
    with open("costly", "a") as file:
        file.write("x")
    return 5

@torpor.step
def flaky():
    with open(FLAKY, "a+") as file:
        file.write("x")
        file.seek(0)
        if len(file.read()) < 3:
            raise ValueError("not yet")
    return 7

@torpor.agent
def tries():
    return costly() + flaky()

@torpor.agent
def gives_up():
    raise torpor.NonRetryable("no use")

@torpor.agent
def later():
    raise torpor.RetryAfter("2h", "busy")

@torpor.agent
def parent():
    return torpor.spawn(tries).result()

@torpor.agent
def slow():
    time.sleep(60)

@torpor.agent
def asks():
    return torpor.waitpoint("a").result().data

@torpor.agent
def asleep():
    torpor.sleep("1d")
"""


async def deploy(plain: Plain, **rules: Any) -> AgentVersion:
    flaky = plain.home.root / "flaky"  # the world outside
    version = await plain.deploy(AGENTS + f"FLAKY = {str(flaky)!r}\n")
    given = {"rules": rules}
    await plain.store.write(lambda c: agents.deployed_again(c, version, given, 1.0))
    return version


async def tried(plain: Plain, run: RunId) -> list[RunRow]:
    """The run and what took its place, each when it has ended."""
    found = [await plain.ended(run)]
    while (successor := found[-1].successor) is not None:
        found.append(await plain.ended(successor))
    return found


async def test_a_run_is_tried_again_with_what_it_recorded(plain: Plain) -> None:
    version = await deploy(plain, retries=2, retry_backoff="10ms")
    rows = await tried(plain, await plain.run(version, "tries"))
    assert [row.state.value for row in rows] == ["failed", "failed", "completed"]
    assert [row.attempt for row in rows] == [1, 2, 3]
    assert rows[-1].result == 12
    assert rows[0].successor == rows[1].id
    assert rows[0].error is not None and rows[0].error.keys() == {"type", "message", "traceback"}
    # What each try has written is kept at its end; nothing else is begun anew.
    begun = [await plain.ops(row.id, "op.begin") for row in rows]
    steps = [[op for op in ops if op and not op.startswith("file:")] for ops in begun]
    assert steps == [["step:costly#1", "step:flaky#1"]] * 3


async def test_its_parent_waits_for_what_takes_its_place(plain: Plain) -> None:
    version = await deploy(plain, retries=2, retry_backoff="10ms")
    run = await plain.run(version, "parent")
    assert await plain.result(run) == 12
    made = await plain.store.read(lambda c: runs.children(c, run))
    assert [row.state.value for row in made] == ["failed", "failed", "completed"]


async def test_an_agent_may_refuse_or_put_it_off(plain: Plain) -> None:
    version = await deploy(plain, retries=2)
    (row,) = await tried(plain, await plain.run(version, "gives_up"))
    assert row.state is RunState.FAILED
    began = time.time()
    row = await plain.ended(await plain.run(version, "later"))
    assert row.successor is not None
    put_off = await plain.row(row.successor)
    assert put_off.state is RunState.QUEUED and not put_off.ready
    assert 7200 <= (put_off.not_before or 0) - began <= 7260


async def test_what_takes_too_long_has_failed(plain: Plain) -> None:
    version = await deploy(plain, max_compute="1h", max_wall="2h", retries=2)
    run, other = await plain.run(version, "slow"), await plain.run(version, "asleep")
    now = time.time()
    await plain.pid(run)
    await plain.open_wait(other)
    for each, due in ((run, 3600), (other, 3600)):
        row = await plain.row(each)
        assert abs((row.due_at or 0) - now - due) < 60 and row.wall_until is not None
    await has_run(plain, 3700.0)
    row = await plain.ended(run)
    assert row.error is not None and row.error["type"] == "Overran"
    assert "max_compute" in row.error["message"] and row.successor is None


async def has_run(plain: Plain, ran_s: float) -> None:
    """Whatever has a machine has had one for so long."""

    def write(c: Connection) -> None:
        c.execute(schema.runs.update().values(ran_s=ran_s, due_at=time.time()))
        deadlines.end_due(c, time.time())

    await plain.store.write(write)


@pytest.mark.parametrize("rested_s", [0.0, 3700.0])
async def test_what_it_only_waits_is_no_computing(
    plain: Plain, monkeypatch: pytest.MonkeyPatch, rested_s: float
) -> None:
    version = await deploy(plain, max_compute="1h")
    run = await plain.run(version, "asks")
    await plain.open_wait(run)
    monkeypatch.setattr(Standing, "rested_s", rested_s)
    await has_run(plain, 3700.0)
    if rested_s:
        await plain.answer(run, 5)
        assert await plain.result(run) == 5
        assert (await plain.row(run)).waited_s == rested_s
    else:
        row = await plain.ended(run)
        assert row.error is not None and row.error["type"] == "Overran"


@pytest.mark.parametrize("busy", [0, 1])
def test_an_agent_rests_while_it_has_nothing_else_to_do(busy: int) -> None:
    clock = ManualClock()
    standing = Standing(clock)
    standing.unanswered.add(OpId("wait:a#1"))
    standing.update(1, busy)
    with standing.resting():
        clock.skip(4.0)
        assert standing.rested_s == (0.0 if busy else 4.0)
        clock.skip(4.0)
    rested_s = standing.rested_s
    assert rested_s == (0.0 if busy else 8.0)
    standing.arrived.append(Result("wait:a#1", {}))
    with standing.resting():
        clock.skip(4.0)
        assert standing.rested_s == rested_s
    assert standing.rested_s == rested_s


async def test_one_that_sleeps_too_long_is_not_woken_for_it(plain: Plain) -> None:
    version = await deploy(plain, max_wall="2h")
    run = await plain.run(version, "asleep")
    await plain.open_wait(run)
    driver = plain.scheduler.drivers[run]
    driver.hand_over(lambda how: None)
    await plain.until(run, lambda row: row.state is RunState.SUSPENDED)
    await plain.scheduler.hand_over(lambda how: None)
    await plain.store.write(
        lambda c: c.execute(schema.runs.update().where(schema.runs.c.id == run).values(ready=False))
    )
    row = await plain.row(run)
    assert row.due_at == row.wall_until
    await plain.store.write(lambda c: deadlines.end_due(c, time.time() + 7300))
    row = await plain.row(run)
    assert row.state in FINAL and row.error is not None and "max_wall" in row.error["message"]


async def test_out_of_memory_it_goes_to_a_bigger_machine(plain: Plain) -> None:
    version = await deploy(plain, memory_max="2G")
    run = await plain.run(version, "asleep")
    await plain.open_wait(run)
    error, failure = {"type": "OutOfMemory", "message": "m"}, Failure("OutOfMemory")

    def fail(c: Any) -> RunRow:
        at = schema.runs.c
        c.execute(schema.runs.update().where(at.id == run).values(engine="qemu"))
        now, to = time.time(), RunState.FAILED
        successor = retrying.retry(c, run, error, failure, lambda *_: b"", now)
        return runs.transition(c, run, None, to, now, error=error, successor=successor)

    row = await plain.store.write(fail)
    assert row.successor is not None
    bigger = await plain.row(row.successor)
    grown = await plain.store.read(lambda c: agents.get_agent(c, bigger.version))
    assert (grown.spec["memory_mib"], bigger.attempt) == (1024, 1)
    current = await plain.store.read(lambda c: choose_current(c, "agent:asleep"))
    assert current.row.version == version  # what is deployed is as it was
