"""A server that stops as it is told to hands its runs over: they go on where they were."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from torpor.contextlog import schema, snapshots
from torpor.control.service.service import Service
from torpor.core.ids import RunId
from torpor.core.position import VERSION
from torpor.core.states import RunState
from torpor.testing.clock import ManualClock
from torpor.testing.fakes.world import POINTS, STUCK_S, Calls, Nth, World
from torpor.worker.calls import BEGUN

pytestmark = pytest.mark.anyio

WORK = [["print", "one "], ["step", "a"], ["work", "w"], ["print", " two"], ["step", "b"]]
LIFE = [["step", "a"], ["model", "m"], ["checkpoint", "c"], ["work", "w"], ["wait", "q"]]


async def up_to_work(world: World, *threads: list[list[str]]) -> RunId:
    run = await world.run(WORK, *threads)
    await world.begun(run, "step:w#1")
    return run


async def told_by(world: World, run: RunId) -> list[str]:
    return [entry.kind for entry in await world.entries(run)]


async def test_it_goes_on_in_the_middle_of_a_step(world: World) -> None:
    run = await up_to_work(world)
    (told,) = await world.hand_over()
    assert told.startswith(f"{run}: frozen where it was")
    row = await world.row(run)
    assert row.state is RunState.SUSPENDED and row.ready
    (suspended,) = await world.entries(run, "run.suspended")
    assert suspended.data["handed_over"] is True
    await world.start()
    await world.up(run, 2)
    # It is under way, not in doubt.
    service = Service(world.home, world.store)
    assert (await service.runs.get(run))["in_doubt"] == []
    world.let_end("step:w#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.epoch == 2
    assert world.effects == {"step:a#1": 1, "step:w#1": 1, "step:b#1": 1}
    assert await world.output(run) == "one w two"
    kinds = await told_by(world, run)
    assert kinds.count("run.resumed") == 1
    assert not {"run.recovered", "op.again"} & set(kinds)


async def test_one_that_is_lost_later_goes_on_from_there(world: World) -> None:
    run = await up_to_work(world)
    await world.hand_over()
    await world.start()
    await world.up(run, 2)
    await world.kill()
    await world.up(run, 3)
    world.let_end("step:w#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    # From the middle of the step on, it is done again (rule 3).
    assert [entry.op for entry in await world.entries(run, "op.again")] == ["step:w#1"]
    assert world.effects == {"step:a#1": 1, "step:w#1": 1, "step:b#1": 1}
    assert await world.output(run) == "one w two"


async def test_again_and_again(world: World) -> None:
    run = await up_to_work(world)
    for up in range(2, 5):
        await world.hand_over()
        await world.start()
        await world.up(run, up)
    taken = await world.store.read(lambda c: snapshots.list_snapshots(c, run))
    assert len(taken) == 3
    assert [each.parent for each in taken[:-1]] == [each.id for each in taken[1:]]
    template = await world.store.read(lambda c: snapshots.get_snapshot(c, taken[-1].parent or ""))
    assert template.run is None
    world.let_end("step:w#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert world.effects == {"step:a#1": 1, "step:w#1": 1, "step:b#1": 1}


@pytest.mark.parametrize("point", POINTS)
async def test_at_any_point(world: World, point: str) -> None:
    handing: list[asyncio.Task[list[str]]] = []
    reached = asyncio.Event()

    async def hand_over() -> None:
        world.anywhere = None
        handing.append(asyncio.create_task(world.hand_over()))
        reached.set()
        await asyncio.sleep(0)  # it has begun

    for n in range(1, 100):
        Nth(world, point, n, hand_over)
        reached.clear()
        world.let = {"step:w#1"}
        world.upstream.requests.clear()
        run = await world.run(LIFE)
        ends = [asyncio.create_task(end) for end in (reached.wait(), world.asleep(run))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
        world.anywhere = None
        if handing:
            await handing.pop()
            await world.start()
        await world.open_waits(run)
        await world.answer("wait:q#1")
        row = await world.ended(run)
        assert row.state is RunState.COMPLETED, row.error
        assert world.effects == {"step:a#1": 1, "step:w#1": 1}
        assert world.requests == ["m"]
        assert await world.output(run) == "w"
        if not reached.is_set():
            return
    raise AssertionError("the point was passed again and again")


async def test_the_model_is_waited_for_and_paid_once(world: World) -> None:
    calls = Calls(world)
    run = await up_to_work(world, [["model", "m"]])
    await calls.begun.wait()
    told: list[str] = []
    waits_for_it = asyncio.Event()

    def tell(words: str) -> None:
        told.append(words)
        if words == f"{run}: waiting for the model's answer":
            waits_for_it.set()

    handing = asyncio.create_task(world.scheduler.hand_over(tell))
    async with asyncio.timeout(STUCK_S):
        await waits_for_it.wait()
    calls.go.set()
    await handing
    await world.stop()
    frozen, _ = told
    assert "frozen" in frozen
    assert [e.op for e in await world.entries(run, "op.end")] == ["step:a#1", "model:m#1"]
    await world.start()
    await world.up(run, 2)
    world.let_end("step:w#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.result["model:m#1"]["body"] == "{}"
    assert world.requests == ["m"]


async def test_a_model_that_takes_too_long_is_in_doubt_and_not_asked_again(
    timed: tuple[World, ManualClock],
) -> None:
    world, clock = timed
    calls = Calls(world)
    run = await up_to_work(world, [["model", "m"]])
    await calls.begun.wait()
    handing_over = asyncio.create_task(world.hand_over())
    await world.until(run, lambda row: row.state is RunState.SUSPENDED)
    clock.skip(world.limits.hand_over_s)
    assert "cut off" in (await handing_over)[-1]
    await world.broker.die()  # with its server
    assert (await world.row(run)).state is RunState.SUSPENDED
    await world.start()
    await world.up(run, 2)
    world.let_end("step:w#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED and row.result["model:m#1"]["status"] == 503
    assert BEGUN in row.result["model:m#1"]["body"]
    assert world.requests == ["m"]


async def test_what_cannot_be_frozen_in_time_is_recovered(
    timed: tuple[World, ManualClock],
) -> None:
    world, clock = timed
    run = await up_to_work(world)
    world.refused["prepare"] = 10**6
    handing_over = asyncio.create_task(world.hand_over())
    with world.store.subscribe(run) as subscription:
        while not await world.entries(run, "freeze.failed"):
            await subscription.wait()
    clock.skip(world.limits.hand_over_s)
    told = await handing_over
    assert told[0] == f"{run}: cannot be frozen yet: refused"
    assert told[-1].endswith("cut off; it goes on from the log")
    assert (await world.row(run)).state is RunState.RUNNING
    world.refused.clear()
    await world.start()
    await world.up(run, 2)
    world.let_end("step:w#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    # In doubt (rule 3), as after any loss.
    assert world.effects == {"step:a#1": 1, "step:w#1": 2, "step:b#1": 1}


async def test_a_machine_that_is_lost_meanwhile_is_recovered(world: World) -> None:
    run = await up_to_work(world)
    world.on("device", world.kill)
    told = await world.hand_over()
    assert "goes on from the log" in told[-1]
    await world.start()
    await world.up(run, 2)
    world.let_end("step:w#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert await world.output(run) == "one w two"


async def test_what_was_to_be_replayed_still_is(world: World) -> None:
    """Frozen between a recovery and what the log holds: output is neither lost nor repeated."""
    script = [["compute", "c"], ["work", "w"], ["print", " two "], ["work", "v"], ["print", "."]]
    world.let = {"compute:c#1", "step:w#1"}
    run = await world.run(script)
    await world.begun(run, "step:v#1")
    world.let.clear()
    await world.kill()
    await world.up(run, 2)
    await world.hand_over()
    await world.start()
    await world.up(run, 3)
    for op in ("compute:c#1", "step:v#1"):
        world.let_end(op)
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert await world.output(run) == "w two v."
    assert world.effects == {"step:w#1": 1, "step:v#1": 2}  # the latter was in doubt


async def test_one_that_only_waits_sleeps_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.carriers.terms = replace(world.terms, grace_s=1000.0)
    run = await world.run([["wait", "q"], ["step", "b"]])
    await world.open_waits(run)
    driver = world.scheduler.drivers[run]
    await world.until(run, lambda row: driver.standing.waiting > 0)
    await world.hand_over()
    (suspended,) = await world.entries(run, "run.suspended")
    assert "handed_over" not in suspended.data
    await world.start()
    await world.asleep(run)
    await world.answer("wait:q#1")
    assert (await world.ended(run)).epoch == 2


async def test_nothing_is_claimed_any_more(world: World) -> None:
    run = await up_to_work(world)
    queued: list[RunId] = []

    async def create() -> None:
        effects, recorded = world.effects.copy(), world.recorded.copy()
        queued.append(await world.run([["step", "late"]]))
        world.effects, world.recorded = effects, recorded

    world.on("keep", create)
    await world.hand_over()
    assert (await world.row(queued[0])).state is RunState.QUEUED
    await world.start()
    assert (await world.ended(queued[0])).state is RunState.COMPLETED
    await world.up(run, 2)
    world.let_end("step:w#1")
    assert (await world.ended(run)).state is RunState.COMPLETED


@pytest.mark.limits(cancel_grace_s=0.05)
async def test_one_that_is_being_cancelled_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refused["cancel"] = 1
    run = await up_to_work(world)
    world.scheduler.drivers[run].cancel()
    await world.hand_over()
    assert (await world.row(run)).state is RunState.CANCELLED


async def test_a_machine_for_each_operation(world: World) -> None:
    world.scheduler.always_suspend = True
    life = [["print", "one "], ["step", "a"], ["model", "m"], ["checkpoint", "c"], ["wait", "q"]]
    for _ in range(2):  # lazily, then warm
        world.upstream.requests.clear()
        run = await world.run([*life, ["print", "two"], ["step", "b"]])
        await world.open_waits(run)
        await world.answer("wait:q#1")
        row = await world.ended(run)
        assert row.state is RunState.COMPLETED, row.error
        assert row.result["wait:q#1"]["data"] == "yes"
        assert world.effects == {"step:a#1": 1, "step:b#1": 1}
        assert await world.output(run) == "one two"
        assert world.requests == ["m"]
        log = [entry.kind for entry in await world.entries(run)]
        assert log.count("machine.up") > 3  # what is heard together is handed over together
        assert "run.recovered" not in log


@pytest.mark.parametrize("old", [True, False])
async def test_a_position_of_another_version(world: World, old: bool) -> None:
    """An old one is read; one of a newer torpor serves not, and the run goes on from its log."""
    run = await up_to_work(world)
    await world.hand_over()
    (snapshot,) = await world.store.read(lambda c: snapshots.list_snapshots(c, run))
    position = snapshot.detail | {"version": VERSION + 1}
    if old:
        del position["version"]
    change = schema.snapshots.update().where(schema.snapshots.c.id == snapshot.id)
    await world.store.write(lambda c: c.execute(change.values(detail=position)))
    await world.start()
    await world.up(run, 2)
    world.let_end("step:w#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert world.effects == {"step:a#1": 1, "step:w#1": 1 if old else 2, "step:b#1": 1}
    failed = [each.data["reason"] for each in await world.entries(run, "machine.failed")]
    assert bool(failed) is not old and all("version 2; this torpor reads" in why for why in failed)
