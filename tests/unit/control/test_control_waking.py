"""Guests that need time to hear what they were told, and agents that wake by themselves."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from torpor.contextlog.runs import RunRow
from torpor.core.errors import NotFound
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.testing.fakes.world import FREEZING, STUCK_S, Nth, World

pytestmark = pytest.mark.anyio

TWO = ([["wait", "a"], ["step", "x"]], [["wait", "b"], ["step", "y"]])


async def slow(world: World, times: int = 3) -> None:
    """Its guest does not come to go on while so many freezes are asked for."""
    async with asyncio.timeout(STUCK_S):
        for _ in range(times):
            await world.patience.get()


def _asleep_or(nth: Nth, row: RunRow) -> bool:
    return row.state is RunState.SUSPENDED or nth.reached


async def heard(world: World, run: RunId) -> None:
    """What was answered is acted on without another wake-up; and the rest of the run."""
    await world.begun(run, "step:y#1")
    await world.asleep(run)
    await world.answer("wait:a#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert world.effects == {"step:x#1": 1, "step:y#1": 1}


async def test_an_answer_wakes_until_it_was_heard(world: World) -> None:
    run = await world.run(*TWO)
    await world.asleep(run)
    world.lagging = True
    await world.answer("wait:b#1")
    await slow(world)
    row = await world.row(run)
    assert (row.state, row.epoch) == (RunState.RUNNING, 2)
    world.catch_up()
    await heard(world, run)
    assert (await world.row(run)).epoch == 3


async def test_an_answer_to_a_machine_that_is_awake(world: World) -> None:
    world.refused["prepare"] = 1_000_000  # it is not frozen before the answer has come
    run = await world.run(*TWO)
    await world.open_waits(run, 2)
    world.lagging = True
    await world.answer("wait:b#1")
    world.refused.clear()
    await slow(world)
    assert (await world.row(run)).epoch == 1
    world.catch_up()
    await heard(world, run)


@pytest.mark.parametrize("point", [*FREEZING, "write", "written"])
async def test_an_answer_at_any_point_to_a_slow_guest(world: World, point: str) -> None:
    answered: list[str] = []
    tried = asyncio.Event()

    async def answer() -> None:
        world.lagging = True
        try:
            await world.answer("wait:b#1")
            answered.append(point)
        except NotFound:  # no wait to be answered yet
            world.catch_up()
        tried.set()

    for n in range(1, 100):
        nth = Nth(world, point, n, answer)
        run = await world.run(*TWO)
        await world.until(run, partial(_asleep_or, nth))
        world.anywhere = None
        if nth.reached:
            await tried.wait()
        if not answered:
            await world.asleep(run)
            await answer()
        await slow(world)
        world.catch_up()
        await heard(world, run)
        world.patience = asyncio.Queue()
        if not nth.reached:
            return
        answered.clear()
        tried.clear()


async def test_a_slow_guest_is_handed_over_and_loses_nothing(world: World) -> None:
    run = await world.run(*TWO)
    await world.asleep(run)
    world.lagging = True
    await world.answer("wait:b#1")
    await slow(world)
    await world.hand_over()
    await world.start()
    await slow(world)
    world.catch_up()
    await heard(world, run)


async def test_one_with_something_of_its_own_to_do_is_woken_for_it(world: World) -> None:
    world.timers.append(0.0)
    run = await world.run([["wait", "q"], ["step", "y"]])
    await world.up(run, 2)
    await world.asleep(run)
    first, second = await world.entries(run, "run.suspended")
    assert first.data["wake_at"] <= first.at and "wake_at" not in second.data
    assert not await world.entries(run, "op.end")
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


async def test_it_is_woken_for_its_answer_all_the_same(world: World) -> None:
    world.timers.append(3600.0)
    run = await world.run([["wait", "q"], ["step", "y"]])
    await world.asleep(run)
    row = await world.row(run)
    assert row.wake_at is not None and row.due_at == row.wake_at
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert (row.state, row.due_at) == (RunState.COMPLETED, None)
