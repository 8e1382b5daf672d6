"""Steps in doubt: repeated and marked, or held until a person has said what became of them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from torpor.control.service.service import Service
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.service.waits import Answer, WaitFilter
from torpor.testing.fakes.world import STUCK_S, World

pytestmark = pytest.mark.anyio

STEP = "step:pay#1"


@pytest.fixture
def service(world: World) -> Service:
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    return service


async def appears(world: World, run: RunId, kind: str, op: str) -> None:
    with world.store.subscribe(run) as subscription:
        async with asyncio.timeout(STUCK_S):
            while op not in [entry.op for entry in await world.entries(run, kind)]:
                await subscription.wait()


async def cut_off(world: World, verb: str, *before: list[Any]) -> RunId:
    """A run whose machine was lost in the middle of the step."""
    world.refused["end"] = 1
    run = await world.run([*before, [verb, "pay"]])
    await appears(world, run, "op.begin", STEP)
    await world.kill()
    return run


async def test_a_step_is_done_again_and_the_log_says_so(world: World, service: Service) -> None:
    run = await cut_off(world, "step")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert world.effects == {STEP: 2}
    (again,) = await world.entries(run, "op.again")
    assert (again.op, again.epoch) == (STEP, 2)
    assert (await service.runs.get(run))["in_doubt"] == []


ANSWERS = {
    "again": ("again", "did pay", 2),
    "done": ({"done": {"receipt": 7}}, {"receipt": 7}, 1),
    "fail": ({"fail": "the bank has no trace of it"}, None, 1),
}


@pytest.mark.parametrize("choice", ANSWERS)
async def test_a_step_is_held_until_somebody_knows(
    world: World, service: Service, choice: str
) -> None:
    run = await cut_off(world, "once")
    await world.asleep(run)
    (listed,) = (await service.runs.get(run))["in_doubt"]
    assert (listed["op"], listed["epoch"], listed["again"]) == (STEP, 1, 0)
    (wait,) = await service.waits.list(WaitFilter(run))
    assert (wait["kind"], wait["data"]["step"]) == ("doubt", STEP)
    assert STEP in str(wait["prompt"])
    for bad in (None, True, "perhaps", {"done": 1, "fail": "x"}, {"fail": 3}):
        with pytest.raises(Invalid, match="does not settle a step"):
            await service.waits.complete(wait["id"], Answer(bad, None, None, "ada"))
    with pytest.raises(Invalid, match="not for approval"):
        await service.waits.complete(wait["id"], Answer("again", True, None, "ada"))
    answer, result, times = ANSWERS[choice]
    await service.waits.complete(wait["id"], Answer(answer, None, None, "ada"))
    with pytest.raises(Conflict, match=r"answered already, at .* by ada"):
        await service.waits.complete(wait["id"], Answer(answer, None, None, "bob"))
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    if result is not None:
        assert row.result == {STEP: result}
    assert world.effects == {STEP: times}
    assert len(await world.entries(run, "op.again")) == times - 1
    (ended,) = [e for e in await world.entries(run, "op.end") if e.op == STEP]
    assert ended.data["ok"] is (choice != "fail")


async def test_it_is_asked_again_after_each_repeat_that_is_cut_off(
    world: World, service: Service
) -> None:
    run = await cut_off(world, "once")
    await world.asleep(run)
    for number in (1, 2):
        (wait,) = await world.open_waits(run)
        assert wait.op == f"doubt:{STEP}#{number}"
        world.refused["end"] = 2 - number
        await service.waits.complete(wait.id, Answer("again", None, None, None))
        if number == 1:
            await appears(world, run, "op.again", STEP)
            await world.kill()
            await world.asleep(run)
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {STEP: 3}


async def test_an_answer_that_the_lost_machine_never_heard_counts_once(
    world: World, service: Service
) -> None:
    run = await cut_off(world, "once")
    await world.asleep(run)
    (wait,) = await world.open_waits(run)
    world.on("resume", world.kill)
    await service.waits.complete(wait.id, Answer("again", None, None, None))
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {STEP: 2}
    assert len(await world.entries(run, "op.begin")) == 2  # the step and the question


async def test_a_checkpoint_in_the_middle_of_a_step_marks_its_repeat(world: World) -> None:
    """The machine goes on from within the step, without beginning it again."""
    world.refused["end"] = 1
    run = await world.run([["step", "pay"]], [["checkpoint", "c"], ["wait", "q"]])
    await appears(world, run, "op.end", "checkpoint:c#1")
    await world.kill()
    await appears(world, run, "op.again", STEP)
    (again,) = await world.entries(run, "op.again")
    assert (again.op, again.epoch) == (STEP, 2)
