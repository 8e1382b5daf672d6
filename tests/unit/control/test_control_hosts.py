"""Runs that sleep while their host changes under them: another version of the engine, another
image. What was frozen before does not fit any more; the log does."""

from __future__ import annotations

import shutil
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from torpor.contextlog import agents, snapshots, waits
from torpor.contextlog.snapshots import SnapshotRow
from torpor.control.engines import OnMachines
from torpor.control.service.agents import Agents
from torpor.control.service.service import Service
from torpor.control.storage.storage import Storage
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.image.build import Image
from torpor.service.runs import ForkRequest
from torpor.testing.fakes.world import SOURCE, VERSION, World
from torpor.worker.templates import Templates

pytestmark = pytest.mark.anyio

LIFE = (["print", "one "], ["step", "a"], ["wait", "q"], ["step", "b"], ["print", "two "])
LONGER = (*LIFE, ["wait", "r"], ["step", "c"], ["print", "three"])
REASON = "it was taken with played 1; this host has played 2"


async def upgrade(world: World, version: str) -> None:
    """The server stops, the host gets this version of the engine, the server starts."""
    await world.hand_over()
    await world.machines.close()
    world.engine_version = version
    await world.start()


async def taken(world: World, run: RunId) -> list[SnapshotRow]:
    return await world.store.read(lambda c: snapshots.list_snapshots(c, run))


async def templates(world: World) -> list[str]:
    """All there are, the agent's last."""

    def read(c: Any) -> list[str]:
        rows = sorted(snapshots.live_snapshots(c), key=lambda row: row.created_at)
        return [row.id for row in rows if row.run is None]

    return await world.store.read(read)


async def ups(world: World, run: RunId) -> list[str]:
    """What its machines were restored from."""
    return [entry.data["snapshot"] for entry in await world.entries(run, "machine.up")]


async def test_a_run_that_slept_through_an_upgrade_is_replayed_and_says_so(world: World) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    (frozen,) = await taken(world, run)
    await upgrade(world, "2")
    await world.answer("wait:q#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED, row.error
    assert row.result["wait:q#1"]["data"] == "yes"
    assert (world.effects["step:a#1"], world.effects["step:b#1"]) == (1, 1)
    assert await world.output(run) == "one two "
    assert [entry.data for entry in await world.entries(run, "snapshot.unfit")] == [
        {"snapshots": [frozen.id], "reason": REASON, "seq": 0}
    ]
    assert await world.entries(run, "machine.failed") == []
    old, new = await templates(world)
    assert await ups(world, run) == [old, new]
    # What cannot be used here is no damage.
    keys = world.scheduler.shared.keys
    storage = Storage(world.store, world.machines.store, keys, world.metrics)
    verified = await storage.verify(run)
    assert frozen.id in [each["id"] for each in verified["snapshots"]]
    assert verified["problems"] == []


async def test_runs_that_wake_together_get_one_new_template(world: World) -> None:
    asleep = []
    for n in range(4):
        asleep.append(await world.run([["step", f"a{n}"], ["wait", "q"], ["step", f"b{n}"]]))
        await world.asleep(asleep[-1])
    await upgrade(world, "2")
    for run in asleep:
        (wait,) = await world.open_waits(run)
        answer = partial(waits.complete_wait, wait=wait.id, value={"data": "yes"}, now=1.0)
        await world.store.write(answer)
    for run in asleep:
        assert (await world.ended(run)).state is RunState.COMPLETED
    assert len(await templates(world)) == 2


async def test_what_was_taken_before_serves_again_on_the_version_that_took_it(
    world: World,
) -> None:
    run = await world.run(LONGER)
    await world.asleep(run)
    (first,) = await taken(world, run)
    await upgrade(world, "2")
    await world.answer("wait:q#1")
    await world.asleep(run)
    second, _ = await taken(world, run)
    await upgrade(world, "1")
    await world.answer("wait:r#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    noted = await world.entries(run, "snapshot.unfit")
    assert [entry.data["snapshots"] for entry in noted] == [[first.id], [second.id]]
    assert noted[-1].data["seq"] == first.seq
    assert (await ups(world, run))[-1] == first.id
    assert {world.effects[f"step:{name}#1"] for name in "abc"} == {1}
    assert await world.output(run) == "one two three"
    # A warm machine would be of the template, which does not fit.
    assert await world.machines.warm.take(VERSION, wait=True) is None


async def test_an_older_snapshot_is_not_even_needed_once_one_fits(world: World) -> None:
    run = await world.run(LONGER)
    await world.asleep(run)
    await upgrade(world, "2")
    await world.answer("wait:q#1")
    await world.asleep(run)
    await world.answer("wait:r#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert len(await world.entries(run, "snapshot.unfit")) == 1


async def test_a_run_that_had_not_begun_says_that_only_its_template_did_not_fit(
    world: World,
) -> None:
    world.slots = 0
    run = await world.run(LIFE)
    await upgrade(world, "2")
    await world.have_room(16)
    await world.asleep(run)
    (noted,) = await world.entries(run, "snapshot.unfit")
    assert noted.data == {"snapshots": [], "reason": REASON, "seq": 0}


async def test_a_fork_whose_base_is_of_the_other_version_is_replayed(world: World) -> None:
    run = await world.run(LIFE)
    await world.asleep(run)
    (frozen,) = await taken(world, run)
    await upgrade(world, "2")
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    copy = RunId((await service.runs.fork(run, ForkRequest()))["id"])
    await world.asleep(copy)
    (noted,) = await world.entries(copy, "snapshot.unfit")
    assert noted.data == {"snapshots": [frozen.id], "reason": REASON, "seq": 0}
    assert world.effects["step:a#1"] == 1
    assert await world.output(copy) == "one "


async def test_a_step_that_was_frozen_in_its_middle_is_in_doubt(world: World) -> None:
    run = await world.run([["step", "a"], ["work", "long"], ["step", "b"]])
    await world.begun(run, "step:long#1")
    await upgrade(world, "2")
    await world.up(run, 2)
    world.let_end("step:long#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert [entry.op for entry in await world.entries(run, "op.again")] == ["step:long#1"]
    assert [world.effects[f"step:{name}#1"] for name in ("a", "long", "b")] == [1, 2, 1]


async def test_a_snapshot_of_an_image_that_is_gone_is_replayed_on_the_one_there_is(
    world: World,
) -> None:
    run = await world.run(LONGER)
    await world.asleep(run)
    old = world.machines.image
    new = Image("j" * 32, world.home.images / ("j" * 32))
    shutil.copytree(old.directory, new.directory)
    machines = world.machines
    machines.image = machines.fit.image = machines._capture._image = new
    await world.answer("wait:q#1")
    await world.asleep(run)
    assert await world.entries(run, "snapshot.unfit") == [], "both images are here"
    shutil.rmtree(old.directory)
    world.machines._cache.clear()
    await world.answer("wait:r#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED, row.error
    (noted,) = await world.entries(run, "snapshot.unfit")
    assert f"it needs the guest image {old.digest}, which is not here" in noted.data["reason"]
    assert {world.effects[f"step:{name}#1"] for name in "abc"} == {1}


async def test_who_deploys_again_after_an_upgrade_gets_a_template_that_fits(world: World) -> None:
    made = OnMachines(
        world.machines, Templates(world.machines, world.store, world.authorities), world.carriers
    )

    async def ready(engine: str, progress: Any) -> OnMachines:
        return made

    engines: Any = SimpleNamespace(ready=ready, choice=SimpleNamespace(engine="qemu"))
    deploying = Agents(world.store, engines)

    async def deploy() -> tuple[bool, str]:
        answer = await deploying.deploy(SOURCE, lambda *_: None)
        agent = await world.store.read(lambda c: agents.get_agent(c, answer["version"]))
        return answer["cached"], str(agent.template)

    anew, first = await deploy()
    assert (anew, await deploy()) == (False, (True, first))
    world.engine_version = "2"
    anew, second = await deploy()
    assert (anew, second != first) == (False, True)
    assert await deploy() == (True, second)
