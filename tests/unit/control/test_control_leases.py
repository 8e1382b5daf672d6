"""Two workers on one store: each run is one's, its lease says whose, and the other leaves it alone
until that has run out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import Connection, select

from torpor.contextlog import entries, runs, schema
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.runs import RunRow
from torpor.core.errors import Conflict, HostError, StaleEpoch
from torpor.core.home import Home
from torpor.core.ids import Epoch, RunId
from torpor.core.limits import LIMITS
from torpor.core.states import RunState
from torpor.core.workers import Holder, Lease, Worker
from torpor.logstore.sqlite import SqliteStore
from torpor.testing.clock import ManualClock
from torpor.testing.fakes.world import QUICK, World
from torpor.worker.lease import LeaseLost, Leases

T = TypeVar("T")

pytestmark = pytest.mark.anyio
A, B = Worker("a", "1"), Worker("b", "1")
LEASE_S, RENEW_S = LIMITS.lease_s, LIMITS.renew_s


def test_who_has_a_run() -> None:
    assert A.holder(None, None, 0.0) is Holder.NONE
    assert A.holder(A.id, 5.0, 9.0) is Holder.NONE
    assert A.holder(B.id, 5.0, 4.9) is Holder.OTHER
    assert A.holder(B.id, 5.0, 5.0) is Holder.LATE
    former = Worker("a", "0")
    assert A.holder(former.id, 5.0, 0.0) is Holder.NONE  # A has its lock, so it has ended
    alone = Worker("a", "2", alone=True)
    assert alone.holder(B.id, 5.0, 0.0) is Holder.NONE


class Carried:
    """A driver that has claimed its run."""

    live = None

    def __init__(self, epoch: Epoch) -> None:
        self.epoch = epoch
        self.cut_off_for: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        self.cut_off_for = error


class Workers:
    """A and B, each with its leases, in one store, and a clock that both go by."""

    def __init__(self, world: World) -> None:
        self.world, self.clock = world, ManualClock()
        self.carried: dict[RunId, Carried] = {}
        self.a = self._leases(A, self.carried)
        self.b = self._leases(B, {})

    def _leases(self, worker: Worker, held: dict[RunId, Carried]) -> Leases:
        return Leases(self.world.store, worker, held, self.clock, LIMITS)

    def alone(self) -> Leases:
        return self._leases(Worker("a", "1", alone=True), self.carried)

    async def write(self, fn: Callable[[Connection], T]) -> T:
        return await self.world.store.write_unseen(fn)

    async def claim(self, run: RunId, leases: Leases) -> Epoch:
        now = self.clock.now()
        epoch = await self.write(lambda c: runs.claim(c, run, now, leases.lease()))
        if leases is self.a:
            self.carried[run] = Carried(epoch)
        return epoch

    async def until(self, run: RunId) -> float | None:
        return (await self.world.row(run)).lease_until


@pytest.fixture
async def workers(world: World) -> Workers:
    world.slots = 0  # its own server claims nothing
    return Workers(world)


async def test_a_claim_is_refused_while_another_workers_lease_lasts(workers: Workers) -> None:
    run = await workers.world.run([["step", "a"]])
    epoch = await workers.claim(run, workers.a)
    row = await workers.world.row(run)
    assert (row.worker_id, row.lease_until) == (A.id, workers.clock.now() + LEASE_S)
    with pytest.raises(Conflict, match="carried by the worker a#1"):
        await workers.claim(run, workers.b)
    assert await workers.claim(run, workers.a) == epoch + 1  # its own it may claim again
    workers.clock.skip(LEASE_S)
    assert await workers.claim(run, workers.b) == epoch + 2
    note = NewEntry("note.log", None, {"text": "late"})
    with pytest.raises(StaleEpoch):
        await workers.write(lambda c: entries.append(c, run, Epoch(epoch + 1), [note], 1.0))


async def test_a_server_of_the_same_directory_takes_over_at_once(workers: Workers) -> None:
    run = await workers.world.run([["step", "a"]])
    epoch = await workers.claim(run, workers.a)
    again = Leases(workers.world.store, Worker("a", "2"), {}, workers.clock, LIMITS)
    assert await workers.claim(run, again) == epoch + 1


async def test_all_leases_are_renewed_in_one_write_and_go_with_the_machine(
    workers: Workers,
) -> None:
    several = [await workers.world.run([["wait", str(n)]]) for n in range(3)]
    for run in several:
        await workers.claim(run, workers.a)
    workers.clock.skip(RENEW_S)
    before = workers.world.passed["write"]
    await workers.a.renew()
    assert workers.world.passed["write"] == before + 1
    assert {await workers.until(run) for run in several} == {workers.clock.now() + LEASE_S}
    run = several[0]
    epoch = workers.carried[run].epoch
    await workers.write(lambda c: runs.transition(c, run, epoch, RunState.SUSPENDED, 1.0))
    row = await workers.world.row(run)
    assert (row.worker_id, row.lease_until) == (None, None)


async def test_nothing_is_written_while_nothing_runs(workers: Workers) -> None:
    before = workers.world.passed["write"]
    await workers.a.renew()
    assert workers.world.passed["write"] == before


async def test_who_was_away_for_too_long_ends_what_was_taken_over_and_nothing_else(
    workers: Workers,
) -> None:
    """A laptop that slept for an hour."""
    lost, kept, slept = [await workers.world.run([["wait", "q"]]) for _ in range(3)]
    for run in (lost, kept, slept):
        await workers.claim(run, workers.a)
    workers.clock.skip(3600)
    await workers.claim(lost, workers.b)
    epoch = await workers.claim(slept, workers.b)
    await workers.write(lambda c: runs.transition(c, slept, epoch, RunState.SUSPENDED, 1.0))
    await workers.a.renew()
    for run in (lost, slept):
        assert isinstance(workers.carried[run].cut_off_for, StaleEpoch)
    assert workers.carried[kept].cut_off_for is None
    assert await workers.until(kept) == workers.clock.now() + LEASE_S


async def test_a_run_that_is_just_suspended_or_claimed_again_was_not_taken_over(
    workers: Workers,
) -> None:
    suspended, again = [await workers.world.run([["wait", "q"]]) for _ in range(2)]
    for run in (suspended, again):
        await workers.claim(run, workers.a)
    epoch = workers.carried[suspended].epoch
    await workers.write(lambda c: runs.transition(c, suspended, epoch, RunState.SUSPENDED, 1.0))
    former = workers.carried[again]
    await workers.claim(again, workers.a)
    workers.carried[again] = former  # which does not know its new epoch yet
    await workers.a.renew()
    assert not any(each.cut_off_for for each in workers.carried.values())


async def _fail() -> None:
    raise HostError("the store is gone")


async def test_who_cannot_renew_ends_what_it_carries_before_another_may_take_it(
    workers: Workers,
) -> None:
    run = await workers.world.run([["step", "a"]])
    await workers.a.renew()
    await workers.claim(run, workers.a)
    until = await workers.until(run)
    assert until is not None
    workers.world.on("write", *[_fail] * 99)
    while workers.carried[run].cut_off_for is None:
        workers.clock.skip(RENEW_S)
        await workers.a.renew()
    assert isinstance(workers.carried[run].cut_off_for, LeaseLost)
    assert until - 2 * RENEW_S <= workers.clock.now() < until


async def test_who_is_alone_with_its_store_waits_for_it(workers: Workers) -> None:
    run, alone = await workers.world.run([["step", "a"]]), workers.alone()
    await workers.claim(run, workers.a)
    workers.world.on("write", *[_fail] * 99)
    for _ in range(20):
        workers.clock.skip(RENEW_S)
        await alone.renew()
    assert workers.carried[run].cut_off_for is None


async def test_a_full_disk_lets_nobody_claim_and_so_ends_nothing(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "disk_is_full", True)
    run = await workers.world.run([["step", "a"]])
    await workers.claim(run, workers.a)
    workers.world.on("write", *[_fail] * 99)
    for _ in range(20):
        workers.clock.skip(RENEW_S)
        await workers.a.renew()
    assert workers.carried[run].cut_off_for is None


async def test_a_store_that_does_not_answer_is_as_one_that_fails(workers: Workers) -> None:
    run = await workers.world.run([["step", "a"]])
    await workers.claim(run, workers.a)

    hanging = asyncio.Event()

    async def hang() -> None:
        hanging.set()
        await asyncio.Event().wait()

    workers.world.on("write", *[hang] * 99)
    while workers.carried[run].cut_off_for is None:
        renewing = asyncio.create_task(workers.a.renew())
        await hanging.wait()
        hanging.clear()
        workers.clock.skip(RENEW_S)
        await renewing
    assert isinstance(workers.carried[run].cut_off_for, LeaseLost)


# Whole servers.


@pytest.fixture
async def theirs(tmp_path: Path, anyio_backend: str) -> AsyncIterator[World]:
    """A server that is B's, with a clock that only the test moves on."""
    async with World(Home(tmp_path), QUICK, ManualClock(), B) as world:
        yield world


async def _of_a(theirs: World) -> tuple[RunId, Epoch]:
    """A run that A carries, while B's server is down."""
    await theirs.stop()
    run = await theirs.run([["step", "a"], ["wait", "q"]])
    now = theirs.clock.now()
    lease = Lease(A, now + LEASE_S)
    return run, await theirs.store.write_unseen(lambda c: runs.claim(c, run, now, lease))


async def test_a_server_leaves_alone_what_another_worker_carries_until_that_is_late(
    theirs: World,
) -> None:
    run, epoch = await _of_a(theirs)
    await theirs.start()
    mine = await theirs.run([["step", "b"]])
    assert (await theirs.ended(mine)).state is RunState.COMPLETED
    row = await theirs.row(run)
    assert (row.state, row.worker_id, row.epoch) == (RunState.RUNNING, A.id, epoch)
    assert isinstance(theirs.clock, ManualClock)
    theirs.clock.skip(LEASE_S)
    await theirs.open_waits(run)
    row = await theirs.row(run)
    assert (row.worker_id, row.epoch) == (B.id, epoch + 1)
    # A comes back, and is refused.
    note = NewEntry("note.log", None, {"text": "late"})
    with pytest.raises(StaleEpoch):
        await theirs.store.write_unseen(lambda c: entries.append(c, run, epoch, [note], 1.0))
    await theirs.answer("wait:q#1")
    row = await theirs.ended(run)
    assert (row.state, row.worker_id) == (RunState.COMPLETED, None)
    kinds = [entry.kind for entry in await theirs.entries(run)]
    assert kinds.count("run.started") == kinds.count("run.recovered") == 1


async def test_what_is_taken_from_a_server_it_lets_go_without_a_word(theirs: World) -> None:
    run = await theirs.run([["compute", "long"], ["step", "a"]])
    await theirs.up(run, 1)
    now = theirs.clock.now() + QUICK.lease_s
    lease = Lease(A, now + LEASE_S)
    epoch = await theirs.store.write_unseen(lambda c: runs.claim(c, run, now, lease))
    before = await theirs.entries(run)
    await theirs.scheduler._leases.renew()
    await theirs.gone(run)
    row = await theirs.row(run)
    assert (row.state, row.worker_id, row.epoch) == (RunState.RUNNING, A.id, epoch)
    assert await theirs.entries(run) == before
    assert not any(machine.carries for machine in theirs.machines_started)


async def test_a_machine_that_was_ended_for_its_lease_is_not_counted_as_lost(
    theirs: World,
) -> None:
    run = await theirs.run([["compute", "long"], ["step", "a"]])
    for count in range(1, QUICK.losses_max + 3):
        await theirs.up(run, count)
        driver = theirs.scheduler.drivers[run]
        assert driver.live is not None
        driver.fail(LeaseLost("the store was away"))
        await driver.live.kill()
    await theirs.up(run, QUICK.losses_max + 3)
    theirs.let_end("compute:long#1")
    assert (await theirs.ended(run)).state is RunState.COMPLETED


async def test_running_runs_name_their_worker(theirs: World) -> None:
    run = await theirs.run([["compute", "long"]])
    await theirs.up(run, 1)
    table = schema.runs.c
    query = select(table.worker_id, table.lease_until).where(table.id == run)
    found = await theirs.store.read(lambda c: c.execute(query).one())
    assert found == (B.id, theirs.clock.now() + QUICK.lease_s)
    theirs.let_end("compute:long#1")
    row: RunRow = await theirs.ended(run)
    assert row.worker_id is None
