"""Cancelling a run, whatever it is doing just then."""

from __future__ import annotations

import asyncio

import pytest

from torpor.control.service.service import Service
from torpor.core.errors import Conflict, HostError
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.testing.fakes.world import World
from torpor.worker import cancelling

pytestmark = pytest.mark.anyio


@pytest.fixture
def service(world: World) -> Service:
    service = Service(world.home, world.store)
    service._engines.scheduler = world.scheduler
    return service


async def test_queued(world: World, service: Service) -> None:
    world.slots = 0
    run = await world.run([["step", "a"]])
    assert (await service.runs.cancel(run))["state"] == "cancelled"
    with pytest.raises(Conflict, match="is cancelled already"):
        await service.runs.cancel(run)


async def test_suspended(world: World, service: Service) -> None:
    run = await world.run([["wait", "q"], ["step", "a"]])
    await world.asleep(run)
    assert (await service.runs.cancel(run))["state"] == "cancelled"
    assert not world.effects
    with pytest.raises(Conflict, match="is cancelled already"):
        await service.runs.cancel(run)
    assert len(await world.entries(run, "run.resumed")) == 0  # it was not woken for that


@pytest.mark.limits(cancel_grace_s=0.05)
@pytest.mark.parametrize("heeds", [True, False], ids=["heeded", "unheeded"])
async def test_running(
    world: World, service: Service, heeds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.refused["cancel"] = 0 if heeds else 1
    asked = asyncio.Event()

    async def hold() -> None:
        asked.set()
        await asyncio.Event().wait()

    world.on("model", hold)
    run = await world.run([["model", "m"]])
    await asked.wait()
    assert (await service.runs.cancel(run))["state"] == "cancelled"
    row = await world.ended(run)
    assert row.error == cancelling.CANCELLED


async def test_waiting_for_the_host(
    world: World, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled = asyncio.Event()

    async def fail() -> None:
        await cancelled.wait()
        raise HostError("no memory left")

    world.on("load", fail)
    run = await world.run([["step", "a"]])
    await world.until(run, lambda row: row.state is RunState.RUNNING)
    cancelling = asyncio.create_task(service.runs.cancel(run))
    await world.until(run, lambda row: row.cancel_requested)
    cancelled.set()
    assert (await cancelling)["state"] == "cancelled"
    assert not world.effects


class Cancelling:
    """Cancels a run when it is called, without waiting for its end."""

    def __init__(self, world: World, service: Service) -> None:
        self.world, self.service = world, service
        self.run = RunId("")
        self.task: asyncio.Task[object] | None = None

    async def __call__(self) -> None:
        # It ends only once the run has, which is what stands still here.
        self.task = asyncio.create_task(self.service.runs.cancel(self.run))
        await self.world.until(self.run, lambda row: row.cancel_requested or row.state in FINAL)


@pytest.mark.parametrize(
    "point", ["load", "resume", "model", "pause", "device", "keep", "kept", "kill", "write"]
)
async def test_at_any_point(world: World, service: Service, point: str) -> None:
    for n in range(1, 100):
        cancelling = Cancelling(world, service)
        room, world.slots = world.slots, 0
        run = await world.run([["step", "a"], ["checkpoint", "c"], ["model", "m"], ["wait", "q"]])
        cancelling.run = run
        world.acts.clear()
        world.on(point, *[None] * (n - 1), cancelling)
        await world.have_room(room)
        await world.until(run, lambda row: row.state.value in ("suspended", "cancelled"))
        await world.gone(run)
        if cancelling.task is None:
            assert n > 1
            return
        await cancelling.task
        assert (await world.ended(run)).state is RunState.CANCELLED
    raise AssertionError("the points never end")
