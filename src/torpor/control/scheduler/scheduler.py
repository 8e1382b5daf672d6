"""Which runs get a machine, and when: claims, timers, recovery.

One driver a running run. A run is claimed when it is queued, or suspended and ready, and there
is room. Timers end waits whose time has come. A run whose machine was lost is claimed again from
its newest snapshot; one that loses its machines without getting anywhere is failed, so that
nothing loops for ever. All of this is also what happens after a restart of the server: runs that
the log calls running have no machine then (machines die with their server), so they were lost.

What is done with a run is a row of `torpor.policy.recovery`; here it is done.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from sqlalchemy import Connection

from torpor.contextlog import deadlines, entries, leases, runs, schedules, snapshots, waits
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.news import (
    Answered,
    CancelRequested,
    Claimable,
    Due,
    News,
    Overran,
    Replaced,
)
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.control.scheduler.claims import Claims, Needs, next_runs, reasons
from torpor.control.scheduler.schedules import fire_due
from torpor.core.errors import (
    Conflict,
    Damaged,
    HostError,
    Invalid,
    NotFound,
    StaleEpoch,
    TorporError,
    Unfit,
    full_disk,
)
from torpor.core.ids import Epoch, OpId, RunId, Seq, SnapshotId
from torpor.core.states import RunState
from torpor.core.workers import Holder, Worker
from torpor.policy import admission, recovery
from torpor.policy.admission import Capacity, Room, Share, rank
from torpor.policy.recovery import Act, Facts, Origins
from torpor.policy.recovery import Driver as By
from torpor.policy.retries import Failure
from torpor.wire.messages import EXCHANGES
from torpor.worker import retrying
from torpor.worker.cancelling import CANCELLED
from torpor.worker.carrier import Carriers
from torpor.worker.driver import Driver, Outcome
from torpor.worker.lease import LeaseLost, Leases
from torpor.worker.listening import Listening
from torpor.worker.loading import host_memory_mib
from torpor.worker.parts import Shared
from torpor.worker.tasks import Tasks

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Tried:
    """What came of trying to restore a run: an outcome, or why there is none."""

    origins: Origins = Origins.UNTRIED
    why: str = ""
    outcome: Outcome | None = None
    again_s: float | None = None  # it is worth trying for ever, this often
    useless: frozenset[SnapshotId] = frozenset()  # what was tried


class Scheduler:
    def __init__(
        self,
        shared: Shared,
        worker: Worker,
        on_end: Callable[[], None] = lambda: None,
        capacity: Capacity | None = None,
    ) -> None:
        """`shared` is for its drivers, which claim runs for `worker`; `on_end` is called when a run
        was suspended or has ended. `capacity` is for tests: else it is what the host has."""
        self.capacity = capacity or admission.capacity(os.cpu_count() or 1, host_memory_mib())
        # For tests: each operation ends its machine, and the run goes on in another.
        self.always_suspend = os.environ.get("TORPOR_TEST_SUSPEND") == "always"
        self.drivers: dict[RunId, Driver] = {}
        self.shared = shared
        self._store, self._broker = shared.store, shared.broker
        self._clock, self._limits = shared.clock, shared.limits
        self._on_end = on_end
        # Found so while a machine ran on them. Files may be mended: the next server looks again.
        self._damaged: set[SnapshotId] = set()
        self._claimable = asyncio.Event()
        self._timers = asyncio.Event()
        self._in_doubt = False  # a wait may have ended without a driver knowing
        self._tasks = Tasks(_log_failure)
        self._driving: dict[RunId, asyncio.Task[None]] = {}
        self._handing_over = False
        self._engines: dict[str, Carriers] = {}
        self._mib_of: dict[str, Callable[[int], int]] = {}
        self._needs = Needs(self._mib_of)
        self._held: dict[RunId, Driver] = {}  # those that have claimed their runs
        self._leases = Leases(self._store, worker, self._held, self._clock, self._limits)
        self._listening = Listening(shared.broker, self._wake, self._tasks)
        # When to look again at what other workers carry.
        self._others_at = math.inf if worker.alone else 0.0

    def start(self) -> None:
        self._store.listen(self._hear)
        for work in (self._claim_runs(), self._fire_timers(), self._leases.tend()):
            self._tasks.spawn(work)

    async def serve(self, engine: str, carriers: Carriers) -> None:
        """From now on the runs of this engine get its carriers. What was running when the last
        server ended is recovered, and what sleeps under calls is woken by their answers."""

        def read(c: Connection) -> tuple[list[RunRow], dict[RunId, list[OpId]]]:
            running = self._measured(c, runs.runs_in(c, [RunState.RUNNING]))
            return running, snapshots.under_calls(c, EXCHANGES, engine=engine)

        self._engines[engine], self._mib_of[engine] = carriers, carriers.need_mib
        lost, asleep = await self._store.read(read)
        for row in lost:
            if row.engine == engine:
                self._consider(row)
        for run, calls in asleep.items():
            self._listening.listen(run, dict.fromkeys(calls, 0))
        self._tasks.spawn(carriers.tend())
        self._claimable.set()

    def serves(self, engine: str) -> bool:
        return engine in self._engines

    async def hand_over(self, tell: Callable[[str], None]) -> None:
        """Leave all runs to the next server as they are now: no run is claimed any more, and those
        that have a machine are frozen wherever they are. What cannot be done in time
        is left to recovery. `tell` hears, in words, what becomes of each run."""
        self._handing_over = True
        driving = dict(self._driving)
        for run, task in driving.items():
            driver = self.drivers[run]
            if driver.live is None:
                task.cancel()  # it has done nothing yet
            else:
                driver.hand_over(partial(_tell_of, run, tell))
        if driving:
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(self._limits.hand_over_s):
                    await asyncio.wait(driving.values())
        for run, driver in self.drivers.items():
            doing = driver.held_up or driver.doing
            tell(f"{run}: {doing} for too long, cut off; it goes on from the log")

    async def stop(self) -> None:
        """End all machines. Their runs stay as they are and are recovered by the next server."""
        await self._tasks.cut_off()
        for carriers in self._engines.values():
            await carriers.close()

    # What others tell it.

    def answered_perhaps(self) -> None:
        """The log failed while a wait was being ended, and may have done it all the same: whoever
        waits gets what the log says."""
        self._in_doubt = True
        self._timers.set()
        self._claimable.set()

    def _hear(self, news: News) -> None:
        """What a write to the log has brought, whoever wrote it."""
        match news:
            case Claimable():
                self._claimable.set()
            case Due():
                self._timers.set()
            case Answered(run, op, value) if run in self.drivers:
                self.drivers[run].deliver(op, {"ok": True, "value": value})
            case Answered():
                self._claimable.set()
            case Overran(run) if run in self.drivers:
                self.drivers[run].computing.overran()
            case CancelRequested(run) if run in self.drivers:
                self.drivers[run].cancel()
            case Replaced(run) if run in self.drivers:
                # What carries its agent is ended, wherever that is.
                self.drivers[run].fail(StaleEpoch(f"{run} has ended: another has its place"))
                self._tasks.spawn(self._broker.forget(run))

    # Claims.

    async def _claim_runs(self) -> None:
        while True:
            self._claimable.clear()
            if self._handing_over:
                return
            claims = await self._when_possible(lambda: self._store.read(self._next_runs))
            for row in claims.rows:
                self._consider(row)
            await self._look_at_others()
            again_at = min(claims.again_at or math.inf, self._others_at)
            again_s = again_at - self._clock.now()
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(max(0.0, min(self._limits.safety_net_s, again_s))):
                    await self._claimable.wait()

    async def _look_at_others(self) -> None:
        """Take over runs on which other workers have not renewed their leases."""
        now, worker = self._clock.now(), self._leases.worker
        if now < self._others_at:
            return

        def read(c: Connection) -> list[RunRow]:
            return self._measured(c, leases.of_others(c, worker))

        rows = await self._when_possible(lambda: self._store.read(read))
        for row in rows:
            if row.engine in self._engines:
                self._consider(row)
        later = [row.lease_until for row in rows if (row.lease_until or 0.0) > now]
        self._others_at = min([now + self._limits.safety_net_s, *filter(None, later)])

    def _next_runs(self, c: Connection) -> Claims:
        return next_runs(c, self.room(), self._needs, list(self.drivers), self._clock.now())

    def reasons(self, c: Connection, rows: Iterable[RunRow], now: float) -> dict[RunId, str]:
        """Why those of the runs that want a machine have none."""
        return reasons(c, rows, self.room(), self._needs, list(self.drivers), now)

    def room(self) -> Room:
        """What the host has for runs, and what those take of it that have a driver."""
        shares = [self._share(driver) for driver in list(self.drivers.values())]
        return Room(self.capacity, frozenset(self._engines), shares)

    def _measured(self, c: Connection, rows: list[RunRow]) -> list[RunRow]:
        """The same; from now on it is known how much memory they take."""
        for row in rows:
            self._needs.read(c, row.engine, row.version)
        return rows

    def _share(self, driver: Driver) -> Share:
        row, live = driver.row, driver.live
        mib = self._needs.known(row.version) if live is None else live.taken_mib
        return Share(rank(row.priority, row.id), mib)

    def _fits(self, row: RunRow) -> bool:
        share = Share(rank(row.priority, row.id), self._needs.known(row.version))
        return self.room().fits(row.engine, share, row.parent)

    def _consider(self, row: RunRow) -> None:
        at_it = By.CLAIMS if row.id in self.drivers else By.NONE
        match self._decide(row, at_it):
            case Act.CLAIM:
                # Registered before the claim: an answer from now on finds the driver, one from
                # before is in the journal that the driver reads.
                self._driving[row.id] = self._tasks.spawn(self._drive(self._new_driver(row)))
            case Act.CANCEL:
                self._tasks.spawn(self._end(row.id, RunState.CANCELLED, CANCELLED))

    def _decide(self, row: RunRow, by: By, **known: Any) -> Act:
        holder = self._leases.worker.holder(row.worker_id, row.lease_until, self._clock.now())
        known = {"cancel": row.cancel_requested, "holder": holder, **known}
        room, handing_over = by is By.NONE and self._fits(row), self._handing_over
        facts = Facts(row.state, by, row.ready, room, handing_over, **known)
        return recovery.decide(facts)

    def _new_driver(self, row: RunRow) -> Driver:
        driver = Driver(
            self.shared, self._engines[row.engine], row, always_suspend=self.always_suspend
        )
        self.drivers[row.id] = driver
        return driver

    async def _drive(self, driver: Driver) -> None:
        """A run from claim to suspension or end, through as many machines as that takes."""
        run, losses = driver.run, 0
        try:
            while True:
                try:
                    driver.epoch = await self._claim(run)
                except Conflict:  # cancelled meanwhile, or another worker's
                    return
                self._held[run] = driver
                self._listening.leave(run)
                outcome = await self._with_a_machine(driver)
                if outcome is Outcome.SUSPENDED:
                    self._listening.listen(run, driver.left)
                if outcome is not Outcome.LOST:
                    return
                if driver.damage is not None and driver.snapshot is not None:
                    self._damaged.add(driver.snapshot)
                    await self._tell(driver, f"{driver.snapshot} is damaged: {driver.damage}")
                if self._store.disk_is_full:  # no machine can be blamed for what it does then
                    driver.doing = "waiting for the host: its disk is full"
                    await self._clock.sleep(self._limits.full_disk_retry_s)
                elif driver.progressed or driver.damage or isinstance(driver.trouble, LeaseLost):
                    losses = 0
                else:
                    losses += 1
                row = await self._when_possible(
                    lambda: self._store.read(lambda c: runs.get_run(c, run))
                )
                act = self._decide(row, By.LOST, spent=losses >= self._limits.losses_max)
                if act is not Act.CLAIM:
                    await self._settle(driver, act, driver.loss)
                    return
                driver = self._new_driver(row)
        finally:
            self.drivers.pop(run, None)
            self._held.pop(run, None)
            self._driving.pop(run, None)
            self._claimable.set()  # there is room, and it may itself be ready again
            self._on_end()

    async def _wake(self, run: RunId) -> None:
        await self._when_possible(lambda: self._store.write(lambda c: runs.wake(c, run)))

    async def _claim(self, run: RunId) -> Epoch:
        """Raises Conflict."""

        def claim(c: Connection) -> Epoch:
            return runs.claim(c, run, self._clock.now(), self._leases.lease())

        return await self._when_possible(lambda: self._store.write(claim))

    async def _with_a_machine(self, driver: Driver) -> Outcome:
        """Drive from the newest snapshot that can be restored; at worst from the source."""
        row = replace(driver.row, state=RunState.RUNNING)  # it was read before it was claimed
        delays_s, tried = iter(self._limits.host_retry_s), Tried(Origins.UNTRIED)
        while tried.outcome is None:
            known = {"cancel": driver.cancelled, "origins": tried.origins, "holder": Holder.NONE}
            act = self._decide(row, By.HOLDS, **known)
            match act:
                case Act.RESTORE:
                    tried = await self._try_origins(driver)
                case Act.WAIT if (delay_s := next(delays_s, tried.again_s)) is not None:
                    driver.doing = f"waiting for the host: {tried.why}"
                    await self._clock.sleep(delay_s)
                    tried = Tried(Origins.UNTRIED)
                case Act.WAIT:  # for long enough
                    tried = replace(tried, origins=Origins.USELESS)
                case Act.RENEW:
                    tried = await self._from_source(driver, tried)
                case _:
                    await self._settle(driver, act, tried.why)
                    return Outcome.ENDED
        return tried.outcome

    async def _try_origins(self, driver: Driver) -> Tried:
        why, useless = "there is none", frozenset[SnapshotId]()
        for snapshot in await self._origins(driver):
            useless |= set() if snapshot is None else {snapshot.id}
            try:
                return Tried(outcome=await driver.drive(snapshot))
            except Unfit as error:
                why = error.message
                driver.passed_over(snapshot, why)
            except (Damaged, NotFound, Invalid) as error:
                why = error.message
                what = "the agent" if snapshot is None else f"snapshot {snapshot.id}"
                await self._tell(driver, f"{what} is unusable: {why}")
            except (HostError, OSError) as error:
                await self._tell(driver, f"no machine could be started: {error}")
                # A full disk is waited out, however long that takes.
                again_s = None if full_disk(error) is None else self._limits.full_disk_retry_s
                return Tried(Origins.LATER, str(error), again_s=again_s, useless=useless)
            except Exception as error:
                return self._lost(driver, error)
        return Tried(Origins.USELESS, why, useless=useless)

    async def _from_source(self, driver: Driver, tried: Tried) -> Tried:
        """No snapshot of the run serves on this host, not even its template: another machine,
        another QEMU, lost files. The log still has all that was done: a new template of the same
        source replays it."""
        driver.doing = "making its template again"
        carriers = self._engines[driver.row.engine]
        try:
            with contextlib.suppress(StaleEpoch):  # found again by its next write
                await driver.note_unfit(Seq(0))  # before all else: a boot takes a while
            await carriers.renew(driver.row.version, tried.useless | self._damaged)
            return Tried(outcome=await driver.drive((await self._origins(driver))[-1]))
        except (TorporError, OSError) as error:
            why = f"({tried.why}), and no new template made: {error}"
            return Tried(Origins.NOT_EVEN_NEW, why)
        except Exception as error:
            return self._lost(driver, error)

    def _lost(self, driver: Driver, error: Exception) -> Tried:
        """By a fault that is ours to mend; the run is recovered as from any other loss."""
        log.exception("the driver of run %s failed", driver.run)
        driver.loss = repr(error)
        return Tried(outcome=Outcome.LOST)

    async def _origins(self, driver: Driver) -> list[SnapshotRow | None]:
        engine = self._engines[driver.row.engine]
        found = await self._when_possible(lambda: engine.origins(driver.row))
        return [each for each in found if each is None or each.id not in self._damaged]

    async def _settle(self, driver: Driver, act: Act, why: str) -> None:
        """The end of a run that gets no machine any more."""
        match act:
            case Act.CANCEL:
                await self._end(driver.run, RunState.CANCELLED, CANCELLED)
            case Act.GIVE_UP:
                most = self._limits.losses_max
                words = f"its machine was lost {most} times in a row before it got anything"
                await self._fail(driver, "MachineLost", f"{words} done{why and f': {why}'}")
            case Act.CANNOT_RESTORE:
                await self._fail(driver, "CannotRestore", f"no machine could be restored {why}")

    async def _fail(self, driver: Driver, kind: str, message: str) -> None:
        error = {"type": kind, "message": message, "traceback": None}
        failure = Failure(kind)
        rewrap = await self._when_possible(
            lambda: retrying.rewrapper(self._store, self.shared.keys, driver.run, failure)
        )

        def write(c: Connection) -> None:
            now, successor = self._clock.now(), None
            if rewrap is not None:
                successor = retrying.retry(c, driver.run, error, failure, rewrap, now)
            ended = RunState.FAILED
            runs.transition(c, driver.run, None, ended, now, error=error, successor=successor)

        await self._write_end(driver.run, write)

    async def _end(self, run: RunId, state: RunState, error: dict[str, Any]) -> None:
        def write(c: Connection) -> None:
            runs.transition(c, run, None, state, self._clock.now(), error=error)

        await self._write_end(run, write)

    async def _write_end(self, run: RunId, write: Callable[[Connection], None]) -> None:
        with contextlib.suppress(Conflict):
            await self._when_possible(lambda: self._store.write(write))
        self._listening.leave(run)
        await self._broker.forget(run)  # an earlier machine of it may have left model calls

    async def _tell(self, driver: Driver, trouble: str) -> None:
        log.warning("run %s: %s", driver.run, trouble)
        entry = NewEntry("machine.failed", None, {"reason": trouble})

        def write(c: Any) -> None:
            entries.append(c, driver.run, driver.epoch, [entry], self._clock.now())

        with contextlib.suppress(StaleEpoch):  # it has ended, or is another's
            await self._when_possible(lambda: self._store.write(write))

    # Timers.

    async def _fire_timers(self) -> None:
        while True:
            self._timers.clear()
            if self._in_doubt:
                await self._find_answers()
            try:
                await self._store.write(self._end_due)
            except HostError as error:
                log.warning("timers wait for the host: %s", error)
                self.answered_perhaps()
                await self._clock.sleep(self._limits.host_retry_s[0])
                continue
            due = await self._when_possible(lambda: self._store.read(_next_due))
            left_s = min(self._limits.safety_net_s, due - self._clock.now())
            try:
                async with self._clock.timeout(max(0.0, left_s)):
                    await self._timers.wait()
            except TimeoutError:
                self._in_doubt = left_s == self._limits.safety_net_s

    async def _find_answers(self) -> None:
        """Tell the drivers what the log has for their waits; they pass on what is new."""
        self._in_doubt = False
        watched = [(by, op) for by in self.drivers.values() for op in by.standing.of(*waits.WAITS)]

        def read(c: Connection) -> list[dict[str, Any] | None]:
            return [entries.read_end(c, by.run, op) for by, op in watched]

        ends = await self._when_possible(lambda: self._store.read(read))
        for (by, op), end in zip(watched, ends, strict=True):
            if end is not None:
                by.deliver(op, end)

    def _end_due(self, c: Connection) -> None:
        now = self._clock.now()
        deadlines.end_due(c, now)
        fire_due(c, now)
        waits.end_due(c, now, self._limits.due_at_once)

    async def _when_possible(self, do: Callable[[], Awaitable[T]]) -> T:
        """What `do` gives, however long the host cannot: its disk is full, its log locked."""
        while True:
            try:
                return await do()
            except HostError as error:
                log.warning("waiting for the host: %s", error)
                await self._clock.sleep(self._limits.host_retry_s[0])


def _log_failure(error: BaseException) -> None:
    log.error("a task of the scheduler failed", exc_info=error)


def _tell_of(run: RunId, tell: Callable[[str], None], how: str) -> None:
    tell(f"{run}: {how}")


def _next_due(c: Connection) -> float:
    found = (waits.next_due(c), deadlines.next_due(c), schedules.next_due(c))
    return min((due for due in found if due is not None), default=math.inf)
