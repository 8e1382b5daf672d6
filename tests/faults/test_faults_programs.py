"""Random agents among random faults, in the played world, with an oracle of what must happen.

An example is an agent, a plan of faults, how slow guests are, what is answered, and a place at
which it is forked when it has ended. A fault comes after so many points (`World.at`) since the one
before, at the first that suits it. A slow guest hears what it is told when its driver has come to
rest so many times, or for as long as it likes. A run may sleep only when its agent has acted on all
that it was told. TORPOR_TEST_EXAMPLES says how many examples; hypothesis prints and shrinks what
fails.
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
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.faults.oracle import first, payments_at_most, times_at_most
from tests.jsonvalues import ODD, VALUES, exact

from torpor.contextlog import entries, runs, snapshots, waits
from torpor.contextlog.runs import RunRow
from torpor.control.service.service import Service
from torpor.core.errors import Exhausted, HostError, NotFound
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.service.runs import ForkRequest
from torpor.testing.fakes.world import QUICK, World
from torpor.worker import driver

# So many are the same each time; another number is so many at random.
ALWAYS = 200
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
    "broker dies": None,
    # In the middle of a call of the model's, which gets its answer when the next driver rests.
    "kill in a call": ("model",),
    "restart in a call": ("model",),
    "both in a call": ("model",),
    "hand over in a call": ("model",),
    "broker dies in a call": ("model",),
    "broker dies in a restart": ("model",),
}
OPS = ("op.begin", "op.end")
VERBS = ("step", "step", "wait", "wait", "model", "sleep", "checkpoint")

agents = st.lists(st.lists(st.sampled_from(VERBS), min_size=1, max_size=5), min_size=1, max_size=4)
plans = st.lists(st.tuples(st.integers(0, 25), st.sampled_from(sorted(POINTS))), max_size=8)
answers = st.lists(st.sampled_from(ODD) | VALUES, max_size=4)


@dataclass
class Trial:
    world: World
    service: Service
    plan: list[tuple[int, str]]
    slow: int = 0  # how often a driver rests before its guest hears what it was told
    values: list[Any] = field(default_factory=list)  # the answers that people give
    threads: list[list[str]] = field(default_factory=list)  # of operations
    run: RunId | None = None
    answers: dict[str, Any] = field(default_factory=dict)
    outside: deque[str] = field(default_factory=deque)  # faults that are no call's
    done: list[str] = field(default_factory=list)
    since: int = 0  # points, since the last fault
    deaths: int = 0  # of the broker
    lag: int = 0  # times that a driver has yet to rest
    news: asyncio.Event = field(default_factory=asyncio.Event)  # of `outside`
    held: set[asyncio.Event] = field(default_factory=set)  # the model's answers

    @contextlib.contextmanager
    def resting(self, seconds: float | None) -> Iterator[None]:
        """While a driver has nothing to do, for so long or until it hears something."""
        if seconds is None and {*self.outside} <= {"older"}:
            self.let_answer()
        self.lag -= 1
        if self.lag <= 0 or seconds is None:
            self.world.catch_up()
        try:
            yield
        finally:
            self.be_slow()

    def be_slow(self) -> None:
        if not self.world.lagging:
            self.world.lagging, self.lag = self.slow > 0, self.slow

    def let_answer(self) -> None:
        """The model, what it was asked."""
        for each in self.held:
            each.set()

    async def __call__(self, point: str) -> None:
        self.since += 1
        if self.run is None:
            return
        ripe = (
            (after, fault)
            for after, fault in self.plan
            if self.since > after and point in (POINTS[fault] or (point,))
        )
        if (found := next(ripe, None)) is None:
            return
        self.plan.remove(found)
        self.since = 0
        fault = found[1]
        self.done.append(f"{fault} at {point}")
        match fault:
            case "kill":
                await self.world.kill()
            case "broker dies":
                await self.broker_dies()
            case "answer":
                await self.answer()
            case "log fails" | "log did it":
                raise HostError("the database is locked")
            case "log is full":
                raise Exhausted("the disk is full")
            case "disk is full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "kill in a call":
                await self.world.kill()
                await self.hold()
            case "broker dies in a call":
                await self.broker_dies()
                await self.hold()
            case _:
                if fault == "both in a call":
                    await self.world.kill()
                self.outside.append(fault)
                self.news.set()
                if point == "model" and fault != "older":
                    await self.hold()

    async def broker_dies(self) -> None:
        self.deaths += 1
        await self.world.broker.die()

    async def hold(self) -> None:
        let = asyncio.Event()
        self.held.add(let)
        try:
            await let.wait()
        finally:
            self.held.discard(let)

    async def answer(self) -> bool:
        """One of the questions that are open, if any is."""
        run = self.run
        found = await self.world.store.read(lambda c: waits.list_waits(c, run))
        asked = sorted(wait.op for wait in found if wait.kind == "wait")
        if not asked:
            return False
        # The server that this befalls may be stopped meanwhile; who answers is not.
        given = len(self.answers)
        data = self.values[given] if given < len(self.values) else f"answer {given}"
        await asyncio.shield(self._give(asked[given % len(asked)], data))
        return True

    async def _give(self, op: str, data: Any) -> None:
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
            while (row := await self.look(run)).state not in FINAL:
                asleep = row.state is RunState.SUSPENDED and not row.ready
                # While a machine needs it, no snapshot is lost.
                ripe = [fault for fault in self.outside if asleep or fault != "older"]
                if ripe:
                    self.outside.remove(ripe[0])
                    await self.befall(ripe[0], run)
                elif not (asleep and await self.answer()):
                    self.news.clear()
                    await first(subscription.wait(), self.news.wait())

    async def look(self, run: RunId) -> RunRow:
        """A run sleeps only when its agent has acted on all that it was told."""
        row, log = await self.world.store.read(
            lambda c: (runs.get_run(c, run), entries.read_entries(c, run, 0, OPS, 10_000))
        )
        if row.state is RunState.SUSPENDED and not row.ready:
            begun = {entry.op for entry in log if entry.kind == "op.begin"}
            ended = {entry.op for entry in log if entry.kind == "op.end"}
            for thread in self.threads:
                now = next((op for op in thread if op not in ended), None)
                assert now is None or now in begun, f"asleep, though {now} could begin"
        return row

    async def befall(self, fault: str, run: RunId) -> None:
        match fault:
            case "older":
                await self.lose_newest(run)
            case "hand over" | "hand over in a call":
                asyncio.get_running_loop().call_soon(self.let_answer)
                await self.world.hand_over()
                await self.world.start()
            case _:
                await self.world.stop()
                if fault == "broker dies in a restart":
                    await self.broker_dies()
                await self.world.start()

    async def lose_newest(self, run: RunId) -> None:
        newest = await self.world.store.read(lambda c: snapshots.newest_snapshot(c, run))
        if newest is not None:
            self.world.machines.store.delete_manifest(newest.manifest)
            self.world.machines._cache.clear()


@dataclass
class Example:
    threads: list[list[str]]
    plan: list[tuple[int, str]]
    slow: int
    answers: list[Any]
    fork_at: float


class Theatre:
    """One world for all examples, as making one takes longer than an example; another after one
    that failed, so that nothing of it is left. It is in memory where there is such a directory."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._world: World | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self.trial: Trial | None = None

    def play(self, example: Example) -> None:
        try:
            self._runner.run(self._live(example))
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

    async def _live(self, example: Example) -> None:
        if self._world is None:
            self._directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
            self._world = await World(
                Home(Path(self._directory.name)), replace(QUICK, losses_max=1000)
            ).__aenter__()
            self._service = Service(self._world.home, self._world.store)
        trial = self._world.anywhere = self.trial = Trial(
            self._world, self._service, [*example.plan], example.slow, example.answers
        )
        trial.be_slow()
        try:
            threads = [program(n, verbs) for n, verbs in enumerate(example.threads)]
            await tell(trial, threads, example.fork_at)
        except BaseException as error:
            error.add_note(f"What was done to it: {trial.done}")
            raise
        finally:
            self._world.anywhere = self.trial = None
            self._world.lagging = False


def program(number: int, verbs: list[str]) -> list[list[Any]]:
    soon = time.time() + 0.01
    return [
        [verb, soon + (number * 10 + line) / 1000 if verb == "sleep" else f"{number}.{line}"]
        for line, verb in enumerate(verbs)
    ]


async def tell(trial: Trial, threads: list[list[list[Any]]], fork_at: float) -> None:
    world = trial.world
    trial.threads = [[f"{verb}:{name}#1" for verb, name in thread] for thread in threads]
    lines = {f"{verb}:{name}#1": verb for thread in threads for verb, name in thread}
    world.upstream.requests.clear()
    run = await world.run(*threads)
    await trial.see_through(run)
    await check(trial, run, lines, shared=set())

    log = await world.entries(run)
    at = log[int(fork_at * (len(log) - 2))].seq  # the end is no place to go on from
    shared = {str(e.op) for e in log if e.kind == "op.end" and e.seq <= at}
    given = {op: data for op, data in trial.answers.items() if op in shared}
    world.effects.clear()
    world.recorded.clear()
    world.upstream.requests.clear()
    service = trial.service
    service._engines.scheduler = world.scheduler  # there may be another since
    fork = RunId((await service.runs.fork(run, ForkRequest(at=at)))["id"])
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
    assert {op: exact(data) for op, data in given.items()} == {
        op: exact(data) for op, data in trial.answers.items()
    }
    log = await world.entries(run)
    most = times_at_most(log) | payments_at_most(log)
    happened = world.effects + Counter(f"model:{name}#1" for name in world.requests)
    own = {op for op, verb in lines.items() if verb in ("step", "model")} - shared
    # A call that its broker may have made, and died, is not made again.
    doubtful = {op for op in own if _status(row.result[op]) == 503}
    assert trial.deaths or not doubtful, "in doubt, though their broker lived"
    assert own - doubtful <= set(happened) <= own, "0 lost, and nothing that was recorded"
    for op, times in happened.items():
        assert times <= most[op], f"{op} again, not in doubt"


def _status(result: object) -> object:
    return result.get("status") if isinstance(result, dict) else None


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == ALWAYS,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.builds(Example, agents, plans, st.integers(0, 3), answers, st.floats(0, 1)))
def test_each_run_and_its_fork_end_as_if_nothing_had_happened(
    theatre: Theatre, example: Example
) -> None:
    theatre.play(example)


@pytest.fixture
def theatre(monkeypatch: pytest.MonkeyPatch) -> Iterator[Theatre]:
    theatre, sleep = Theatre(), driver.Driver._sleep

    async def rest(self: driver.Driver, seconds: float | None) -> None:
        trial = theatre.trial
        with contextlib.nullcontext() if trial is None else trial.resting(seconds):
            await sleep(self, seconds)

    monkeypatch.setattr(driver.Driver, "_sleep", rest)
    yield theatre
    theatre.close()
