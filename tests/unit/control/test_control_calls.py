"""Model calls in flight when something dies: each is paid once, or marked as in doubt (rule 3)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from torpor.control.service.service import Service
from torpor.core.ids import OpId, RunId
from torpor.core.states import RunState
from torpor.egress.connection import Stream
from torpor.service.runs import ForkRequest
from torpor.testing.fakes.world import Calls, World
from torpor.wire.streams import Frame
from torpor.worker.calls import BEGUN, DIED

pytestmark = pytest.mark.anyio

OP = OpId("model:m#1")
BODY = "the only answer"


async def up_to_the_call(world: World, *after: list[str]) -> tuple[RunId, Calls]:
    world.answers = BODY.encode()
    calls = Calls(world)
    run = await world.run([["model", "m"], *after])
    await calls.begun.wait()
    return run, calls


async def machine(world: World) -> None:
    await world.kill()


async def server(world: World) -> None:
    await world.stop()
    await world.start()


async def both(world: World) -> None:
    await world.kill()
    await server(world)


@pytest.mark.parametrize("die", [machine, server, both])
async def test_what_is_in_flight_is_adopted(
    world: World, die: Callable[[World], Awaitable[None]]
) -> None:
    run, calls = await up_to_the_call(world, ["step", "a"])
    await die(world)
    await world.up(run, 2)
    calls.go.set()
    await paid_once(world, run)


async def test_what_was_answered_while_there_was_no_server_is_kept(world: World) -> None:
    run, calls = await up_to_the_call(world)
    await world.stop()
    calls.go.set()
    kept = await world.broker.client.attach(run, OP)
    assert kept is not None
    assert b"".join([frame.data async for frame in kept[0]]) == BODY.encode()
    await world.start()
    await paid_once(world, run)


async def test_what_cannot_be_recorded_is_kept(world: World) -> None:
    """The server dies with the answer in its hands."""
    run, calls = await up_to_the_call(world)
    stopped = asyncio.Event()

    async def stop() -> None:
        stopped.set()
        await asyncio.Event().wait()

    world.on("write", stop)
    calls.go.set()
    await stopped.wait()
    await server(world)
    await paid_once(world, run)


async def paid_once(world: World, run: RunId) -> None:
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.result[OP]["body"] == BODY
    assert world.requests == ["m"]
    assert not await world.entries(run, "op.again")


async def test_again_and_again(world: World) -> None:
    run, calls = await up_to_the_call(world)
    for epoch in range(2, 6):
        await (machine if epoch % 2 else server)(world)
        await world.up(run, epoch)
    calls.go.set()
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.requests == ["m"]


async def test_what_dies_with_the_broker_is_in_doubt_and_never_sent_again(world: World) -> None:
    run, _ = await up_to_the_call(world)
    await world.broker.die()
    row = await world.ended(run)
    assert row.result[OP]["status"] == 503 and DIED in row.result[OP]["body"]
    assert row.epoch == 1
    assert world.requests == ["m"]


async def test_what_dies_with_broker_and_server_is_in_doubt(world: World) -> None:
    run, _ = await up_to_the_call(world)
    await world.stop()
    await world.broker.die()
    await world.start()
    row = await world.ended(run)
    assert row.result[OP]["status"] == 503 and BEGUN in row.result[OP]["body"]
    assert world.requests == ["m"]


async def test_an_answer_is_kept_until_it_is_recorded_and_no_longer(world: World) -> None:
    run, calls = await up_to_the_call(world)
    assert await known(world, run)
    calls.go.set()
    assert (await world.ended(run)).state is RunState.COMPLETED
    await world.gone(run)
    assert not await known(world, run)


@pytest.mark.limits(cancel_grace_s=0.05)
async def test_a_run_that_is_cancelled_gives_its_call_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refused["cancel"] = 1
    run, _ = await up_to_the_call(world)
    world.scheduler.drivers[run].cancel()
    assert (await world.ended(run)).state is RunState.CANCELLED
    await world.gone(run)
    assert not await known(world, run)
    assert [request.query for request in world.upstream.given_up] == ["m"]
    assert world.requests == ["m"]


async def test_two_runs_that_ask_the_same_pay_each(world: World) -> None:
    for _ in range(2):
        assert (await world.ended(await world.run([["model", "m"]]))).state is RunState.COMPLETED
    assert world.requests == ["m", "m"]


async def known(world: World, run: RunId) -> bool:
    """Whether the broker has the call."""
    found = await world.broker.client.attach(run, OP)
    if found is not None:
        found[0].leave()
    return found is not None


async def test_a_call_that_came_no_further_than_the_log_is_not_in_doubt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker that was there all the time has never heard of it."""
    begun = asyncio.Event()

    async def nowhere(*_: object, permit: str) -> tuple[Stream, Frame]:
        begun.set()
        return await asyncio.Future()

    with monkeypatch.context() as patched:
        patched.setattr(world.broker.client, "call", nowhere)
        run = await world.run([["model", "m"], ["step", "a"]])
        await begun.wait()
        await world.stop()
    await world.start()
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.requests == ["m"]
    assert not await world.entries(run, "op.again")


async def test_a_fork_makes_the_call_that_its_origin_is_at_as_its_own(world: World) -> None:
    run, calls = await up_to_the_call(world)
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    log = await world.entries(run, "op.begin")
    fork = RunId((await service.runs.fork(run, ForkRequest(at=log[-1].seq)))["id"])
    await world.up(fork, 2)
    calls.go.set()
    for each in (run, fork):
        assert (await world.ended(each)).state is RunState.COMPLETED
        assert not await world.entries(each, "op.again")
    assert world.requests == ["m", "m"]


async def test_a_call_that_was_adopted_is_not_shown_as_in_doubt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls = await up_to_the_call(world)
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    attach, attached = world.broker.client.attach, asyncio.Event()

    async def seen(run: RunId, op: OpId) -> tuple[Stream, Frame] | None:
        attached.set()
        return await attach(run, op)

    monkeypatch.setattr(world.broker.client, "attach", seen)
    await world.kill()
    await attached.wait()
    assert (await service.runs.get(run))["in_doubt"] == []
    calls.go.set()
    assert (await world.ended(run)).state is RunState.COMPLETED
