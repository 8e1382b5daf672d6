"""A full disk: machines stand still and go on, and nothing that was said is lost."""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from torpor.blobs.local import LocalBlobs
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.machines import guest
from torpor.snapshot.seal import Key
from torpor.snapshot.values import CHUNK, Incoming, read
from torpor.testing.fakes.world import World
from torpor.worker import freezing

pytestmark = [pytest.mark.anyio, pytest.mark.limits(full_disk_write_retry_s=0.01)]
SIZE = 3 << 20


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "STALL_RETRY_S", 0.01)
    monkeypatch.setattr(guest, "STALL_OVER_S", 0.01)


async def until(world: World, run: RunId, kind: str, count: int = 1) -> None:
    async with asyncio.timeout(10):
        with world.store.subscribe(run) as changes:
            while len(await world.entries(run, kind)) < count:
                await changes.wait()


def held_up(world: World, run: RunId) -> str:
    return str(world.scheduler.drivers[run].held_up)


async def stand_still(world: World) -> None:
    world.disk_full = True
    for machine in world.machines_started:
        if machine.running and machine.carries:
            machine.stall()


async def kinds(world: World, run: RunId) -> list[str]:
    return [entry.kind for entry in await world.entries(run) if entry.kind.startswith("machine.")]


async def test_a_machine_on_a_full_disk_stands_still_says_so_and_goes_on(world: World) -> None:
    run = await world.run([["step", "a"], ["compute", "long"], ["step", "b"]])
    await until(world, run, "op.end")
    await stand_still(world)
    await until(world, run, "machine.stalled")
    assert "its disk is full. It goes on once there is room" in held_up(world, run)
    (stalled,) = await world.entries(run, "machine.stalled")
    assert stalled.data == {"reason": "its disk is full"}
    assert (await world.row(run)).state is RunState.RUNNING
    world.disk_full = False
    await until(world, run, "machine.went_on")
    world.let_end("compute:long#1")
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert world.effects == {"step:a#1": 1, "step:b#1": 1}
    assert await kinds(world, run) == ["machine.up", "machine.stalled", "machine.went_on"]


@pytest.mark.limits(prepare_s=0.05)
async def test_one_that_stands_still_in_a_freeze_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = freezing.Freezing._prepare

    async def free() -> None:
        world.disk_full = False

    async def prepare(self: Any) -> bool:
        monkeypatch.setattr(freezing.Freezing, "_prepare", real)
        await stand_still(world)
        world.on("resume", *[None] * 9, free)
        return await real(self)

    monkeypatch.setattr(freezing.Freezing, "_prepare", prepare)
    run = await world.run([["wait", "q"]])
    await until(world, run, "run.suspended")
    await world.answer("wait:q#1")
    assert (await world.ended(run)).state is RunState.COMPLETED
    assert "run.recovered" not in [entry.kind for entry in await world.entries(run)]


class Full:
    """A disk that takes no more, in what `owner` writes by `name`."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        self.is_full = True
        self.refused = 0
        self.twice = asyncio.Event()
        loop = asyncio.get_running_loop()
        real: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.is_full:
                self.refused += 1
                if self.refused > 1:
                    loop.call_soon_threadsafe(self.twice.set)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        patch.setattr(owner, name, call)


@pytest.mark.parametrize(("owner", "name"), [(tempfile, "mkstemp"), (os, "writev")])
async def test_a_large_result_waits_for_room(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    full = Full(monkeypatch, owner, name)
    run = await world.run([["large", SIZE], ["step", "a"]])
    async with asyncio.timeout(10):
        await full.twice.wait()
    assert held_up(world, run).startswith("waiting for room on the disk: ")
    full.is_full = False
    row = await world.ended(run)
    assert row.state is RunState.COMPLETED
    assert row.result[f"step:{SIZE}#1"] == SIZE
    assert world.effects == {f"step:{SIZE}#1": 1, "step:a#1": 1}
    ended = (await world.entries(run, "op.end"))[0]
    assert ended.data["blob"]["bytes"] == SIZE


def test_what_could_not_be_spooled_is_spooled_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that fails in the middle leaves nothing of itself in the value."""
    blobs, key = LocalBlobs(tmp_path), Key.new()
    content = os.urandom(3 * CHUNK + 17)
    real, writes = FileIO.write, 0

    class Failing(FileIO):
        def write(self, data: Any) -> int:
            nonlocal writes
            writes += 1
            if writes in (2, 30, 31):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(self, data[: len(data) // 2 + 1])

    monkeypatch.setattr("torpor.snapshot.values.FileIO", Failing)
    with closing(Incoming(tmp_path, key)) as incoming:
        for at in range(0, len(content), CHUNK // 3):
            with suppress(OSError):
                incoming.write(content[at : at + CHUNK // 3])
        kept = None
        while kept is None:
            with suppress(OSError):
                kept = incoming.store(blobs)
    assert writes > 31
    assert b"".join(read(blobs, kept, key)) == content
