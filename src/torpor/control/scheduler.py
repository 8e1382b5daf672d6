"""Which runs get a machine, and when: claims, timers, recovery.

One driver a running run. A run is claimed when it is queued, or suspended and ready, and there
is room. Timers end waits whose time has come. A run whose machine was lost is claimed again from
its newest snapshot; one that loses its machines without getting anywhere is failed, so that
nothing loops for ever. All of this is also what happens after a restart of the server: runs that
the log calls running have no machine then (machines die with their server), so they were lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from torpor.contextlog import entries, runs, waits
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.contextlog.store import LogStore
from torpor.contextlog.waits import WaitRow
from torpor.control.carrier import Carriers
from torpor.control.driver import CANCELLED, Driver, Outcome
from torpor.control.keys import Keys
from torpor.control.metrics import Metrics
from torpor.control.model import Model
from torpor.control.tasks import Tasks
from torpor.model.errors import (
    Conflict,
    Damaged,
    HostError,
    Invalid,
    NotFound,
    StaleEpoch,
    TorporError,
)
from torpor.model.ids import RunId, SnapshotId
from torpor.model.states import RunState

log = logging.getLogger(__name__)

T = TypeVar("T")

# Machines lost in a row, none of which got anything durable done.
LOSSES_MAX = 3
HOST_RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
# A server that stops gives its machines and their model calls this long.
HAND_OVER_S = 30.0
# Everything is pushed by events; this finds what an event that never came would have told.
SAFETY_NET_S = 30.0


class Scheduler:
    def __init__(
        self,
        store: LogStore,
        model: Model,
        keys: Keys,
        metrics: Metrics,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_end` is told when a run was frozen or has ended."""
        # For tests: each operation ends its machine, and the run goes on in another.
        self.always_suspend = os.environ.get("TORPOR_TEST_SUSPEND") == "always"
        self.drivers: dict[RunId, Driver] = {}
        self._store = store
        self._model = model
        self._keys = keys
        self._metrics = metrics
        self._on_end = on_end
        # Found so while a machine ran on them. Files may be mended: the next server looks again.
        self._damaged: set[SnapshotId] = set()
        self._claimable = asyncio.Event()
        self._timers = asyncio.Event()
        self._tasks = Tasks(_log_failure)
        self._driving: dict[RunId, asyncio.Task[None]] = {}
        self._handing_over = False
        self._engines: dict[str, Carriers] = {}

    def start(self) -> None:
        for work in (self._claim_runs(), self._fire_timers()):
            self._tasks.spawn(work)

    async def serve(self, engine: str, carriers: Carriers) -> None:
        """From now on the runs of this engine get its carriers. What was running when the last
        server ended is recovered."""
        lost = await self._store.read(lambda c: runs.runs_in(c, [RunState.RUNNING]))
        self._engines[engine] = carriers
        for row in lost:
            if row.engine == engine:
                self._take(row)
        self._tasks.spawn(carriers.tend())
        self._claimable.set()

    def serves(self, engine: str) -> bool:
        return engine in self._engines

    async def hand_over(self, tell: Callable[[str], None]) -> None:
        """Leave all runs to the next server as they are now: no run is claimed any more, and those
        that have a machine are frozen wherever they are. What cannot be done within HAND_OVER_S
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
            await asyncio.wait(driving.values(), timeout=HAND_OVER_S)
        for run, driver in self.drivers.items():
            tell(f"{run}: {driver.doing} for too long, cut off; it goes on from the log")

    async def stop(self) -> None:
        """End all machines. Their runs stay as they are and are recovered by the next server."""
        await self._tasks.cut_off()
        for carriers in self._engines.values():
            await carriers.close()

    # What others tell it.

    def run_created(self) -> None:
        self._claimable.set()

    def answered(self, wait: WaitRow) -> None:
        """A wait has ended and that is recorded: its run is told, or woken for it."""
        driver = self.drivers.get(wait.run)
        if driver is not None:
            driver.deliver(wait.op, ok=True, value=wait.value)
        else:
            self._claimable.set()

    def wait_created(self) -> None:
        self._timers.set()

    # Claims.

    async def _claim_runs(self) -> None:
        while True:
            self._claimable.clear()
            if self._handing_over:
                return
            for row in await _when_possible(lambda: self._store.read(runs.claimable)):
                if self._handing_over:
                    return
                if row.id not in self.drivers and self._has_room(row.engine):
                    self._take(row)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAFETY_NET_S):
                    await self._claimable.wait()

    def _has_room(self, engine: str) -> bool:
        carriers = self._engines.get(engine)
        taken = sum(driver.row.engine == engine for driver in self.drivers.values())
        return carriers is not None and taken < carriers.room

    def _take(self, row: RunRow) -> None:
        # Registered before the claim: an answer from now on finds the driver, one from before is
        # in the journal that the driver reads.
        self._driving[row.id] = self._tasks.spawn(self._drive(self._new_driver(row)))

    def _new_driver(self, row: RunRow) -> Driver:
        driver = Driver(
            self._engines[row.engine],
            self._store,
            self._model,
            self._keys,
            row,
            self.wait_created,
            self._metrics,
            always_suspend=self.always_suspend,
        )
        self.drivers[row.id] = driver
        return driver

    async def _drive(self, driver: Driver) -> None:
        """A run from claim to suspension or end, through as many machines as that takes."""
        run, losses, loss = driver.run, 0, ""
        try:
            while losses < LOSSES_MAX:
                try:
                    driver.epoch = await _when_possible(
                        lambda: self._store.write(lambda c: runs.claim(c, run, time.time()))
                    )
                except Conflict:  # cancelled meanwhile
                    return
                if await self._with_a_machine(driver) is not Outcome.LOST or self._handing_over:
                    return
                if driver.damage is not None and driver.snapshot is not None:
                    self._damaged.add(driver.snapshot)
                    await self._tell(driver, f"{driver.snapshot} is damaged: {driver.damage}")
                losses = 0 if driver.progressed or driver.damage else losses + 1
                loss = driver.loss
                row = await _when_possible(lambda: self._store.read(lambda c: runs.get_run(c, run)))
                driver = self._new_driver(row)
            words = f"its machine was lost {losses} times in a row before it got anything done"
            await self._fail(driver, "MachineLost", f"{words}: {loss}" if loss else words)
        finally:
            self.drivers.pop(run, None)
            self._driving.pop(run, None)
            self._claimable.set()  # there is room, and it may itself be ready again
            self._on_end()

    async def _with_a_machine(self, driver: Driver) -> Outcome:
        """Drive from the newest snapshot that can be restored; at worst the template."""
        for attempt in range(len(HOST_RETRY_S) + 1):
            trouble: TorporError | None = None
            if driver.cancelled:
                await self._end(driver, RunState.CANCELLED, CANCELLED)
                return Outcome.ENDED
            for snapshot in await self._origins(driver):
                try:
                    return await driver.drive(snapshot)
                except (Damaged, NotFound, Invalid) as error:
                    trouble = error
                    what = "the agent" if snapshot is None else f"snapshot {snapshot.id}"
                    await self._tell(driver, f"{what} is unusable: {error.message}")
                except (HostError, OSError) as error:
                    trouble = HostError(str(error))
                    await self._tell(driver, f"no machine could be started: {error}")
                    break
                except Exception as error:  # ours to mend; it is recovered as from any other loss
                    log.exception("the driver of run %s failed", driver.run)
                    driver.loss = repr(error)
                    return Outcome.LOST
            if not isinstance(trouble, HostError):
                break
            driver.doing = f"waiting for the host: {trouble.message}"
            await asyncio.sleep(HOST_RETRY_S[min(attempt, len(HOST_RETRY_S) - 1)])
        return await self._from_source(driver, trouble)

    async def _from_source(self, driver: Driver, trouble: TorporError | None) -> Outcome:
        """No snapshot of the run serves on this host, not even its template: another machine,
        another QEMU, lost files. The log still has all that was done: a new template of the same
        source replays it."""
        driver.doing = "making its template again"
        try:
            await self._engines[driver.row.engine].renew(driver.row.version)
            return await driver.drive((await self._origins(driver))[-1])
        except (TorporError, OSError) as error:
            words = f"no machine could be restored ({trouble}), and no new template made: {error}"
            await self._fail(driver, "CannotRestore", words)
            return Outcome.ENDED

    async def _origins(self, driver: Driver) -> list[SnapshotRow | None]:
        found = await self._engines[driver.row.engine].origins(driver.row)
        return [each for each in found if each is None or each.id not in self._damaged]

    async def _fail(self, driver: Driver, kind: str, message: str) -> None:
        error = {"type": kind, "message": message, "traceback": None}
        await self._end(driver, RunState.FAILED, error)

    async def _end(self, driver: Driver, state: RunState, error: dict[str, Any]) -> None:
        def write(c: Any) -> None:
            runs.transition(c, driver.run, None, state, time.time(), error=error)

        with contextlib.suppress(Conflict):
            await _when_possible(lambda: self._store.write(write))

    async def _tell(self, driver: Driver, trouble: str) -> None:
        log.warning("run %s: %s", driver.run, trouble)
        entry = NewEntry("machine.failed", None, {"reason": trouble})

        def write(c: Any) -> None:
            entries.append(c, driver.run, driver.epoch, [entry], time.time())

        with contextlib.suppress(StaleEpoch):  # it has ended, or is another's: told for nothing
            await _when_possible(lambda: self._store.write(write))

    # Timers.

    async def _fire_timers(self) -> None:
        while True:
            self._timers.clear()
            for wait in await _when_possible(lambda: self._store.write(_end_due)):
                self.answered(wait)
            due = await _when_possible(lambda: self._store.read(waits.next_due))
            left_s = SAFETY_NET_S if due is None else min(SAFETY_NET_S, due - time.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, left_s)):
                    await self._timers.wait()


def _log_failure(error: BaseException) -> None:
    log.error("a task of the scheduler failed", exc_info=error)


def _tell_of(run: RunId, tell: Callable[[str], None], how: str) -> None:
    tell(f"{run}: {how}")


async def _when_possible(do: Callable[[], Awaitable[T]]) -> T:
    """What `do` gives, however long the host cannot: its disk is full, its log locked."""
    while True:
        try:
            return await do()
        except HostError as error:
            log.warning("waiting for the host: %s", error)
            await asyncio.sleep(HOST_RETRY_S[0])


def _end_due(c: Any) -> list[WaitRow]:
    return [waits.get_wait(c, wait.id) for wait in waits.end_due(c, time.time())]
