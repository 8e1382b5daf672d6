"""Forks and retries on machines that are played: from live snapshots, and by replay."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.unit.snapshot.gc_world import age

from torpor.contextlog import keys as key_rows
from torpor.contextlog import runs, snapshots, waits
from torpor.contextlog.runs import RunRow
from torpor.control.service.service import Service
from torpor.control.storage.storage import Storage
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.service.runs import ForkRequest
from torpor.service.waits import Answer
from torpor.testing.fakes.world import World

pytestmark = pytest.mark.anyio

LONG_S = 3600.0
LIFE = (["print", "one "], ["step", "a"], ["wait", "q"], ["step", "b"], ["print", "two"])


@pytest.fixture
def service(world: World) -> Service:
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    return service


async def fork(service: Service, run: RunId, **wanted: Any) -> RunId:
    return RunId((await service.runs.fork(run, ForkRequest(**wanted)))["id"])


async def forked(service: Service, run: RunId) -> dict[str, Any]:
    """How it was made."""
    how = (await service.runs.get(run))["forked"]
    assert how is not None
    return how


async def answer(world: World, run: RunId, data: str) -> RunRow:
    """Answer the run's only open wait; the run as it ended."""
    world.recorded.clear()  # the ledger knows no runs: each may do what others did
    (wait,) = await world.open_waits(run)
    value = {"data": data}
    await world.store.write(lambda c: waits.complete_wait(c, wait.id, value=value, now=time.time()))
    return await world.ended(run)


async def start_of(world: World, run: RunId) -> str:
    """What the run's first own machine was restored from."""
    return str((await world.entries(run, "machine.up"))[-1].data["snapshot"])


async def test_a_sleeping_run_and_its_fork_are_answered_each(
    world: World, service: Service
) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    (frozen,) = await world.store.read(lambda c: snapshots.list_snapshots(c, run))
    copy = await fork(service, run)
    await world.asleep(copy)
    assert await start_of(world, copy) == frozen.id
    assert world.effects == {"step:a#1": 1}
    mine = await answer(world, copy, "mine")
    theirs = await answer(world, run, "theirs")
    assert mine.result["wait:q#1"]["data"] == "mine"
    assert theirs.result["wait:q#1"]["data"] == "theirs"
    assert mine.result["step:a#1"] == theirs.result["step:a#1"] == "did a"
    assert world.effects == {"step:a#1": 1, "step:b#1": 2}
    assert await world.output(copy) == await world.output(run) == "one two"
    shown = await service.runs.get(copy)
    assert [(r["id"], r["origin"]) for r in shown["family"]] == [(run, None), (copy, run)]
    made = await forked(service, copy)
    assert (made["how"], made["base"]) == ("fork", frozen.id)


async def test_a_fork_from_before_the_first_snapshot_replays(
    world: World, service: Service
) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    (ended,) = await world.entries(run, "op.end")
    copy = await fork(service, run, at=ended.seq)
    await world.asleep(copy)
    assert (await forked(service, copy))["base"] is None
    assert world.effects == {"step:a#1": 1}, "what is recorded does not happen again"
    world.recorded.clear()
    early = await fork(service, run, at=2)
    await world.asleep(early)
    assert world.effects == {"step:a#1": 2}, "what is not shared is the fork's own"
    for each in (copy, early, run):
        assert (await answer(world, each, "yes")).state is RunState.COMPLETED


async def test_forks_of_forks_from_snapshots_of_either(world: World, service: Service) -> None:
    run = await world.run((["step", "a"], ["wait", "q"], ["step", "b"], ["wait", "r"]))
    await world.asleep(run)
    one = await fork(service, run)
    await world.asleep(one)
    (wait,) = await world.open_waits(one)
    await service.waits.complete(wait.id, Answer("mine", None, None, None))
    await world.until(one, lambda row: row.epoch == 3)
    await world.asleep(one)
    two = await fork(service, one)
    await world.asleep(two)
    (newest, *_) = await world.store.read(lambda c: snapshots.list_snapshots(c, one))
    assert await start_of(world, two) == newest.id
    base = (await forked(service, one))["base"]
    three = await fork(service, two, at=base)
    await world.asleep(three)
    assert await start_of(world, three) == base
    row = await answer(world, two, "both")
    assert row.result["wait:q#1"]["data"] == "mine"
    assert row.result["wait:r#1"]["data"] == "both"
    tree = [(r["id"], r["origin"]) for r in (await service.runs.get(three))["family"]]
    assert tree == [(run, None), (one, run), (two, one), (three, two)]


async def test_a_result_that_is_set_is_what_the_fork_gets(world: World, service: Service) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    copy = await fork(service, run, set={"step:a#1": "set"})
    await world.asleep(copy)
    assert (await forked(service, copy))["base"] is None, "the frozen one has seen the other"
    row = await answer(world, copy, "yes")
    assert row.result["step:a#1"] == "set"
    assert (await answer(world, run, "yes")).result["step:a#1"] == "did a"
    with pytest.raises(NotFound, match="has no result in the log"):
        await fork(service, run, set={"step:never#1": 1})


async def test_a_retry_goes_on_from_the_failure(world: World, service: Service) -> None:
    run = await world.run((["step", "a"], ["wait", "q"], ["step", "b"], ["fail", "Oops"]))
    await world.asleep(run)
    with pytest.raises(
        Conflict, match="is suspended; only a failed or cancelled run can be retried"
    ):
        await service.runs.retry(run, None)
    assert (await answer(world, run, "yes")).state is RunState.FAILED
    again = RunId((await service.runs.retry(run, None))["id"])
    row = await world.ended(again)
    assert row.state is RunState.FAILED, "its own code fails, as before"
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}, "nothing is done twice"
    assert (await forked(service, again))["how"] == "retry"
    assert (await forked(service, again))["base"] is not None


async def test_a_cancelled_run_is_retried_from_where_it_was(world: World, service: Service) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    await service.runs.cancel(run)
    again = RunId((await service.runs.retry(run, None))["id"])
    await world.asleep(again)
    assert (await answer(world, again, "yes")).state is RunState.COMPLETED
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}


async def test_places_that_make_no_sense(world: World, service: Service) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    template = str((await world.entries(run, "machine.up"))[0].data["snapshot"])
    with pytest.raises(Conflict, match="is a template"):
        await fork(service, run, at=template)
    with pytest.raises(Invalid, match="is neither a position"):
        await fork(service, run, at="7")
    with pytest.raises(Conflict, match="followed from its input"):
        await fork(service, run, input={}, at=6)
    with pytest.raises(Conflict, match="followed from its input"):
        await fork(service, run, input={}, set={"step:a#1": 1})
    other = await world.run(LIFE)
    await world.asleep(other)
    (theirs,) = await world.store.read(lambda c: snapshots.list_snapshots(c, other))
    with pytest.raises(Conflict, match="has seen more than the fork shares"):
        await fork(service, run, at=theirs.id)
    assert len(await world.store.read(runs.list_runs)) == 2


async def test_what_a_fork_needs_outlives_its_origin(world: World, service: Service) -> None:
    """Rule 12, and the key: the origin ends and is reclaimed while the fork is still to begin."""
    run = await world.run(LIFE)
    await world.asleep(run)
    world.slots = 0
    copy = await fork(service, run)
    base = (await forked(service, copy))["base"]
    await service.runs.cancel(run)
    keys = world.scheduler.shared.keys
    storage = Storage(world.store, world.machines.store, keys, world.metrics)

    async def collect() -> list[str]:
        age(world.machines.store, LONG_S)
        return [each["id"] for each in (await storage.collect(dry_run=False))["reclaimed"]]

    assert base not in await collect()
    verified = await storage.verify(copy)
    assert verified["snapshots"][0]["id"] == base and not verified["problems"]
    manifest = (await world.store.read(lambda c: snapshots.get_snapshot(c, base))).manifest
    path = world.machines.store.blobs.materialize("manifests", manifest)
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    (problem,) = (await storage.verify(copy))["problems"]
    assert copy in problem["runs"], "it is told whom the damage touches"
    path.write_bytes(good)

    # Machines again, and the caches of none.
    await world.have_room(9)
    await world.asleep(copy)
    assert await start_of(world, copy) == base
    await world.store.write(lambda c: snapshots.reclaim(c, [base], 1.0))
    await collect()
    assert await world.store.read(lambda c: key_rows.find_key(c, run)) is None, "its last is gone"
    assert (await storage.verify(copy))["problems"] == [], "its own stands on layers of the base"
    assert (await answer(world, copy, "yes")).state is RunState.COMPLETED
    await collect()
    assert await world.store.read(key_rows.any_key) is None
    assert len(world.machines.store.blobs.present("layers")) <= 1, "the template's"


async def test_a_base_that_is_lost_is_replayed_around(world: World, service: Service) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    world.slots = 0
    copy = await fork(service, run)
    base = (await forked(service, copy))["base"]
    manifest = (await world.store.read(lambda c: snapshots.get_snapshot(c, base))).manifest
    world.machines.store.delete_manifest(manifest)
    await world.have_room(9)
    await world.asleep(copy)
    assert base in (await world.entries(copy, "machine.failed"))[0].data["reason"]
    assert world.effects == {"step:a#1": 1}
    assert (await answer(world, copy, "yes")).state is RunState.COMPLETED
