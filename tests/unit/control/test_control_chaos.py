"""Random agents among random misfortunes: each run ends as it would have without them."""

from __future__ import annotations

import asyncio
import errno
import random
import time
from typing import Any

import pytest

from torpor.contextlog import runs, waits
from torpor.core.errors import Exhausted, NotFound
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.testing.fakes.puppet import Object
from torpor.testing.fakes.world import World

pytestmark = pytest.mark.anyio

MISFORTUNES = 12


class Chaos:
    def __init__(self, world: World, run: RunId, draw: random.Random) -> None:
        self.world, self.run, self.draw = world, run, draw
        self.left = MISFORTUNES
        self.answers: dict[str, str] = {}
        self.done: list[str] = []  # for whoever has to find out what went wrong

    async def __call__(self, point: str) -> None:
        for _ in range(self.draw.randrange(3)):
            await asyncio.sleep(0)
        if self.left and self.draw.random() < 0.2:
            self.left -= 1
            kind = self.draw.choice(["answer", "answer", "kill", "trouble", "steal"])
            self.done.append(f"{kind} at {point}")
            await getattr(self, kind)(point)

    async def answer(self, point: str = "") -> None:
        still_open = await self.world.store.read(lambda c: waits.list_waits(c, self.run))
        asked = sorted(wait.op for wait in still_open if wait.kind == "wait")
        if asked:
            op = self.draw.choice(asked)
            data = f"answer {self.draw.random()}"
            try:
                await self.world.answer(op, data)
            except NotFound:  # somebody was quicker
                return
            assert op not in self.answers
            self.answers[op] = data

    async def kill(self, point: str) -> None:
        await self.world.kill()

    async def trouble(self, point: str) -> None:
        if point == "write":
            raise Exhausted("the disk is full")
        if point in ("device", "keep", "load"):
            raise OSError(errno.ENOSPC, "No space left on device")

    async def steal(self, point: str) -> None:
        """Another takes the run and is never heard of again: only a restart notices."""

        def claim(c: Any) -> None:
            if runs.get_run(c, self.run).state is RunState.RUNNING:
                runs.claim(c, self.run, time.time())

        await self.world.store.write_unseen(claim)


def agent(draw: random.Random) -> list[list[list[Any]]]:
    """Threads; only the first prints, since it is settled what one thread prints when."""
    threads: list[list[list[Any]]] = []
    for number in range(draw.randint(1, 3)):
        thread: list[list[Any]] = []
        for line in range(draw.randint(1, 5)):
            verb = draw.choice(["step", "step", "wait", "wait", "model", "sleep", "checkpoint"])
            if number == 0:
                thread.append(["print", f"[{line}é]"])
            name = f"{number}.{line}"
            thread.append(
                [verb, time.time() + draw.choice([-1, 0.05]) if verb == "sleep" else name]
            )
        threads.append(thread)
    return threads


@pytest.mark.limits(losses_max=1000)
@pytest.mark.parametrize("seed", range(12))
async def test_each_run_ends_as_if_nothing_had_happened(
    world: World, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    threads = agent(draw)
    world.slots = 0
    run = await world.run(*threads)
    chaos = world.anywhere = Chaos(world, run, draw)
    await world.have_room(1)
    try:
        answering = asyncio.create_task(answer_all(world, run, chaos))
        if draw.random() < 0.3:
            await world.until(run, lambda row: row.epoch > 0)
            await (world.hand_over() if draw.random() < 0.5 else world.stop())
            await world.start()
        row = await world.ended(run)
        await answering
        assert row.state is RunState.COMPLETED, row.error
        expected: Object = {}
        for verb, argument in (line for thread in threads for line in thread):
            if verb != "print":
                expected[f"{verb}:{argument}#1"] = verb
        assert set(row.result) == set(expected)
        given = {op: value["data"] for op, value in row.result.items() if op.startswith("wait:")}
        assert given == chaos.answers
        printed = "".join(argument for verb, argument in threads[0] if verb == "print")
        assert await world.output(run) == printed
    except BaseException:
        print(f"seed {seed}: {threads}\n" + "\n".join(chaos.done))
        raise


async def answer_all(world: World, run: RunId, chaos: Chaos) -> None:
    """A person, who answers one question when the run sleeps, or else now and then."""
    with world.store.subscribe(run) as subscription:
        while (row := await world.row(run)).state not in FINAL:
            if row.state is RunState.SUSPENDED or chaos.draw.random() < 0.2:
                await chaos.answer()
            await subscription.wait()
