"""Random agents among random faults, in the played world, with an oracle of what must happen.

An example is an agent, a plan of faults, and a place at which it is forked when it has ended. A
fault comes after so many points (`World.at`) since the one before, at the first that suits it.
TORPOR_TEST_EXAMPLES says how many examples; hypothesis prints and shrinks what fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.oracle import times_at_most
from tests.unit.control.world import World

from torpor.contextlog import snapshots, waits
from torpor.control import scheduler as scheduling
from torpor.control.forking import Wanted
from torpor.control.service import Service
from torpor.model.errors import Exhausted, HostError, NotFound
from torpor.model.home import Home
from torpor.model.ids import RunId
from torpor.model.states import FINAL, RunState

# So many are the same each time; another number is so many at random.
ALWAYS = 300
EXAMPLES = int(os.environ.get("TORPOR_TEST_EXAMPLES", ALWAYS))
STUCK_S = 30.0
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

# What each fault is done at; None: anywhere.
POINTS: dict[str, tuple[str, ...] | None] = {
    "kill": None,
    "answer": None,
    "restart": None,
    "hand over": None,
    "older": None,  # the newest snapshot is lost before the next machine is restored
    "log fails": ("write",),
    "log is full": ("write",),
    "log did it": ("written",),  # and says that it failed
    "disk is full": ("device", "keep", "load"),
}
VERBS = ("step", "step", "wait", "model", "sleep", "checkpoint")

agents = st.lists(st.lists(st.sampled_from(VERBS), min_size=1, max_size=5), min_size=1, max_size=3)
plans = st.lists(st.tuples(st.integers(0, 25), st.sampled_from(sorted(POINTS))), max_size=8)


@dataclass
class Trial:
    world: World
    service: Service
    plan: deque[tuple[int, str]]
    run: RunId | None = None
    answers: dict[str, str] = field(default_factory=dict)
    outside: deque[str] = field(default_factory=deque)  # faults that are no call's
    done: list[str] = field(default_factory=list)
    since: int = 0  # points, since the last fault

    async def __call__(self, point: str) -> None:
        self.since += 1
        if self.run is None or not self.plan or self.since <= self.plan[0][0]:
            return
        fault = self.plan[0][1]
        if point not in (POINTS[fault] or (point,)):
            return
        self.plan.popleft()
        self.since = 0
        self.done.append(f"{fault} at {point}")
        match fault:
            case "kill":
                await self.world.kill()
            case "answer":
                await self.answer()
            case "log fails" | "log did it":
                raise HostError("the database is locked")
            case "log is full":
                raise Exhausted("the disk is full")
            case "disk is full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case _:
                self.outside.append(fault)

    async def answer(self) -> bool:
        """One of the questions that are open, if any is."""
        run = self.run
        found = await self.world.store.read(lambda c: waits.list_waits(c, run))
        asked = sorted(wait.op for wait in found if wait.kind == "wait")
        if not asked:
            return False
        # The server that this befalls may be stopped meanwhile; who answers is not.
        await asyncio.shield(self._give(asked[0], f"answer {len(self.answers)}"))
        return True

    async def _give(self, op: str, data: str) -> None:
        with contextlib.suppress(NotFound):  # somebody was quicker
            await self.world.answer(op, data)
            assert op not in self.answers
            self.answers[op] = data

    async def see_through(self, run: RunId) -> None:
        """Until it has ended: do what befalls it from outside; answer when it sleeps."""
        self.run, self.answers = run, {}
        try:
            async with asyncio.timeout(STUCK_S):
                await self._follow(run)
        except TimeoutError as error:
            log = [(e.seq, e.kind, e.op, e.data) for e in await self.world.entries(run)]
            text = "\n".join(map(str, log[-40:]))
            raise AssertionError(f"stuck as {await self.world.row(run)}\n{text}") from error
        await self.world.ended(run)  # its log is checked
        self.run = None

    async def _follow(self, run: RunId) -> None:
        with self.world.store.subscribe(run) as subscription:
            while (row := await self.world.row(run)).state not in FINAL:
                asleep = row.state is RunState.SUSPENDED and not row.ready
                # While a machine needs it, no snapshot is lost.
                ripe = [fault for fault in self.outside if asleep or fault != "older"]
                if ripe:
                    self.outside.remove(ripe[0])
                    await self.befall(ripe[0], run)
                elif not (asleep and await self.answer()):
                    await subscription.wait()

    async def befall(self, fault: str, run: RunId) -> None:
        match fault:
            case "older":
                await self.lose_newest(run)
            case "restart":
                await self.world.stop()
                await self.world.start()
            case "hand over":
                await self.world.hand_over()
                await self.world.start()

    async def lose_newest(self, run: RunId) -> None:
        newest = await self.world.store.read(lambda c: snapshots.newest_snapshot(c, run))
        if newest is not None:
            self.world.machines.store.delete_manifest(newest.manifest)
            self.world.machines._cache.clear()


class Theatre:
    """One world for all examples, as making one takes longer than an example; another after one
    that failed, so that nothing of it is left. It is in memory where there is such a directory."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._world: World | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def play(self, threads: list[list[str]], plan: list[tuple[int, str]], fork_at: float) -> None:
        try:
            self._runner.run(self._live(threads, plan, fork_at))
        except BaseException:
            self.close()
            self._runner = asyncio.Runner()
            raise

    def close(self) -> None:
        if self._world is not None:
            self._runner.run(self._world.__aexit__(None, None, None))
            self._world = None
        if self._directory is not None:
            self._directory.cleanup()
        self._runner.close()

    async def _live(
        self, threads: list[list[str]], plan: list[tuple[int, str]], fork_at: float
    ) -> None:
        if self._world is None:
            self._directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
            self._world = await World(Home(Path(self._directory.name))).__aenter__()
            self._service = Service(self._world.home, self._world.store)
        trial = self._world.anywhere = Trial(self._world, self._service, deque(plan))
        try:
            await tell(trial, [program(n, verbs) for n, verbs in enumerate(threads)], fork_at)
        except BaseException as error:
            error.add_note(f"What was done to it: {trial.done}")
            raise
        finally:
            self._world.anywhere = None


def program(number: int, verbs: list[str]) -> list[list[Any]]:
    soon = time.time() + 0.01
    return [
        [verb, soon + (number * 10 + line) / 1000 if verb == "sleep" else f"{number}.{line}"]
        for line, verb in enumerate(verbs)
    ]


async def tell(trial: Trial, threads: list[list[list[Any]]], fork_at: float) -> None:
    world = trial.world
    lines = {f"{verb}:{name}#1": verb for thread in threads for verb, name in thread}
    world.upstream.asked.clear()
    run = await world.run(*threads)
    await trial.see_through(run)
    await check(trial, run, lines, shared=set())

    log = await world.entries(run)
    at = log[int(fork_at * (len(log) - 2))].seq  # the end is no place to go on from
    shared = {str(e.op) for e in log if e.kind == "op.end" and e.seq <= at}
    given = {op: data for op, data in trial.answers.items() if op in shared}
    world.effects.clear()
    world.recorded.clear()
    world.upstream.asked.clear()
    service = trial.service
    service._engines.scheduler = world.scheduler  # there may be another since
    service._keys = service._forking._keys = world.scheduler._keys
    fork = RunId((await service.fork(run, Wanted(at=at)))["id"])
    await trial.see_through(fork)
    trial.answers |= given
    await check(trial, fork, lines, shared)


async def check(trial: Trial, run: RunId, lines: dict[str, str], shared: set[str]) -> None:
    """It ended as it would have without any fault; `shared` was recorded before it was a fork."""
    world = trial.world
    row = await world.row(run)
    assert row.state is RunState.COMPLETED, row.error
    assert set(row.result) == set(lines)
    given = {op: value["data"] for op, value in row.result.items() if op.startswith("wait:")}
    assert given == trial.answers
    most = times_at_most(await world.entries(run))
    happened = world.effects + Counter(f"model:{name}#1" for name in world.asked)
    own = {op for op, verb in lines.items() if verb in ("step", "model")} - shared
    assert set(happened) == own, "0 lost, and nothing that was recorded"
    for op, times in happened.items():
        assert times <= most[op], f"{op} again, not in doubt"


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == ALWAYS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(agents, plans, st.floats(0, 1))
def test_each_run_and_its_fork_end_as_if_nothing_had_happened(
    theatre: Theatre,
    threads: list[list[str]],
    plan: list[tuple[int, str]],
    fork_at: float,
) -> None:
    theatre.play(threads, plan, fork_at)


@pytest.fixture
def theatre(quick: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Theatre]:
    monkeypatch.setattr(scheduling, "LOSSES_MAX", 1000)
    theatre = Theatre()
    yield theatre
    theatre.close()
