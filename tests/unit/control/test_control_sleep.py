"""Runs that sleep under a model's call: woken by its answer, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from torpor.contextlog.runs import RunRow, request_cancel
from torpor.control.service.service import Service
from torpor.core.ids import OpId, RunId
from torpor.core.states import RunState
from torpor.testing.fakes.world import FREEZING, STUCK_S, Calls, Nth, World
from torpor.worker.calls import BEGUN
from torpor.worker.costs import FreezeCost

pytestmark = pytest.mark.anyio

OP = OpId("model:m#1")
BODY = "the only answer"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A freeze takes next to nothing: calls are slept under at once."""
    monkeypatch.setattr(FreezeCost, "seconds", 0.001)


async def asleep_under_a_call(world: World, *after: list[str]) -> tuple[RunId, Calls]:
    world.answers = BODY.encode()
    calls = Calls(world)
    run = await world.run([["model", "m"], *after])
    await calls.begun.wait()
    await suspended(world, run)
    return run, calls


async def suspended(world: World, run: RunId, epoch: int = 1) -> None:
    await world.until(run, lambda row: row.state is RunState.SUSPENDED and row.epoch >= epoch)
    await world.gone(run)


async def ends(world: World, run: RunId) -> None:
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.result[OP]["body"] == BODY
    assert row.epoch > 1
    assert world.requests == ["m"]
    assert not await world.entries(run, "op.again")


async def nothing(world: World) -> None: ...


async def server(world: World) -> None:
    await world.stop()
    await world.start()


async def handed_over(world: World) -> None:
    await world.hand_over()
    await world.start()


@pytest.mark.parametrize("die", [nothing, server, handed_over])
async def test_the_answer_wakes_it(world: World, die: Callable[[World], Awaitable[None]]) -> None:
    run, calls = await asleep_under_a_call(world, ["step", "a"])
    await die(world)
    assert (await world.row(run)).state is RunState.SUSPENDED
    calls.go.set()
    await ends(world, run)
    assert world.effects == {"step:a#1": 1}


async def test_the_calls_under_which_it_sleeps_are_shown(world: World) -> None:
    run, calls = await asleep_under_a_call(world)
    service = Service(world.home, world.store)
    assert [each.get("asleep_under") for each in await service.runs.list()] == [[OP]]
    assert (await service.runs.get(run)).get("asleep_under") == [OP]
    calls.go.set()
    await ends(world, run)
    assert [each.get("asleep_under") for each in await service.runs.list()] == [[]]
    assert (await service.runs.get(run)).get("asleep_under") == []


async def test_an_answer_that_came_while_there_was_no_server_wakes_it(world: World) -> None:
    run, calls = await asleep_under_a_call(world)
    await world.stop()
    calls.go.set()
    kept = await world.broker.client.attach(run, OP)
    assert kept is not None
    assert [frame async for frame in kept[0]]
    await world.start()
    await ends(world, run)


@pytest.mark.parametrize("too", [nothing, server])
async def test_a_call_that_dies_with_its_broker_wakes_it(
    world: World, too: Callable[[World], Awaitable[None]]
) -> None:
    run, _ = await asleep_under_a_call(world)
    if too is server:
        await world.stop()
        await world.broker.die()
        await world.start()
    else:
        await world.broker.die()
    row = await world.ended(run)
    assert row.result[OP]["status"] == 503 and BEGUN in row.result[OP]["body"]
    assert world.requests == ["m"]


async def test_the_first_bytes_wake_it_and_the_rest_comes(world: World) -> None:
    go = {piece: asyncio.Event() for piece in (b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n")}

    async def pieces() -> AsyncIterator[bytes]:
        for piece, event in go.items():
            await event.wait()
            yield piece

    world.upstream.pieces = pieces
    run = await world.run([["model", "m"]])
    for epoch, event in enumerate(go.values(), start=1):
        await suspended(world, run, epoch)
        event.set()
        await world.up(run, epoch + 1)
    row = await world.ended(run)
    assert row.result[OP]["body"] == "data: 1\n\ndata: 2\n\ndata: 3\n\n"
    assert world.requests == ["m"]


async def test_a_wait_that_is_answered_wakes_it_too(world: World) -> None:
    world.answers = BODY.encode()
    calls = Calls(world)
    run = await world.run([["model", "m"]], [["wait", "q"], ["step", "y"]])
    await calls.begun.wait()
    await suspended(world, run)
    await world.answer("wait:q#1")
    await world.begun(run, "step:y#1")
    await suspended(world, run, 2)
    calls.go.set()
    await ends(world, run)


def _asleep_or(nth: Nth, row: RunRow) -> bool:
    return row.state is not RunState.RUNNING or nth.reached


@pytest.mark.parametrize("point", [*FREEZING, "write", "written"])
async def test_an_answer_at_any_point_of_a_freeze(world: World, point: str) -> None:
    for n in range(1, 100):
        world.answers = BODY.encode()
        calls = Calls(world)

        async def answer(calls: Calls = calls) -> None:
            calls.go.set()

        nth = Nth(world, point, n, answer)
        run = await world.run([["model", "m"]])
        await world.until(run, partial(_asleep_or, nth))
        world.anywhere = None
        calls.go.set()
        row = await world.ended(run)
        assert row.state is RunState.COMPLETED and row.result[OP]["body"] == BODY
        if not nth.reached:
            return


async def test_a_run_that_is_cancelled_in_its_sleep_gives_its_call_up(world: World) -> None:
    run, _ = await asleep_under_a_call(world)
    await world.store.write(lambda c: request_cancel(c, run, time.time()))
    assert (await world.ended(run)).state is RunState.CANCELLED
    async with asyncio.timeout(STUCK_S):
        await world.upstream.gave_up.wait()
    assert [request.query for request in world.upstream.given_up] == ["m"]
