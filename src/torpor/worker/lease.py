"""A worker's hold on the runs that it carries: a lease on each, renewed for all of them at once.

    claim ──► lease_until = now + lease_s ──► every renew_s: one UPDATE ──► suspended, ended: none

A run's row names its worker and says until when that has it. A server that starts takes over what
nobody has (`torpor.core.workers.Worker.holder`): runs of a worker that is known to have ended, at
once; those of another, once its lease has run out.

What keeps two workers from carrying one run (rule 4):

*The log* is kept by the epoch alone. Whoever takes a run over counts it up, in the write that
finds the lease run out; from then on the former worker is refused whatever it writes.
No clock has to be right for that.

*The world* outside is kept as well as clocks allow. A worker counts its leases from before the
write that made them, by a clock that goes on while the host is suspended, and ends what it carries
before they run out if it could not renew them. Runs are taken over only after that. What its
agents do in between, after a host was suspended and before its worker looks again, is as what they
do just before a crash: operations in doubt, with their idempotency keys (rule 3).

A late heartbeat ends nothing where nobody could have taken over: where the worker is alone with its
store, or the store's disk is full, which lets nobody write a claim. Else a laptop that slept, or a
disk that filled up, would cost its runs what they have in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Protocol

from torpor.contextlog import leases
from torpor.core.clock import Clock
from torpor.core.errors import HostError, StaleEpoch, TorporError
from torpor.core.ids import Epoch, RunId
from torpor.core.limits import ServerLimits
from torpor.core.workers import Lease, Worker
from torpor.logstore.protocol import Store
from torpor.worker.carrier import Carrier

log = logging.getLogger(__name__)


class LeaseLost(HostError):
    """The worker could not renew its lease: another may carry the run by now."""


class Held(Protocol):
    """A driver that has claimed its run."""

    @property
    def epoch(self) -> Epoch: ...

    @property
    def live(self) -> Carrier | None: ...

    def fail(self, error: BaseException) -> None: ...


class Leases:
    """Those of one worker. `held` are the runs that it carries, always as they are now."""

    def __init__(
        self,
        store: Store,
        worker: Worker,
        held: Mapping[RunId, Held],
        clock: Clock,
        limits: ServerLimits,
    ) -> None:
        self.worker = worker
        self._store, self._held, self._clock, self._limits = store, held, clock, limits
        self._good_until = clock.boottime() + limits.lease_s

    def lease(self) -> Lease:
        """For a run that is claimed now."""
        return Lease(self.worker, self._clock.now() + self._limits.lease_s)

    async def tend(self) -> None:
        """Renew them, for ever."""
        while True:
            await self._clock.sleep(self._limits.renew_s)
            await self.renew()

    async def renew(self) -> None:
        """Renew them all, and end what carries runs that another worker has taken over, or may
        take over before the next time."""
        began, held = self._clock.boottime(), dict(self._held)
        if not held:  # nothing is written while nothing runs
            self._good_until = began + self._limits.lease_s
            return
        epochs = {run: driver.epoch for run, driver in held.items()}
        try:
            async with self._clock.timeout(self._limits.renew_s):
                taken = await self._store.write(lambda c: leases.renew(c, self.lease(), epochs))
        except (TorporError, TimeoutError) as error:
            await self._not_renewed(held, str(error) or "the store does not answer")
            return
        self._good_until = began + self._limits.lease_s
        for run in taken:
            await _end(held[run], StaleEpoch(f"{run} was taken over by another worker"))

    async def _not_renewed(self, held: Mapping[RunId, Held], why: str) -> None:
        log.warning("leases were not renewed: %s", why)
        # Two more tries would come too late: the next is over at twice the time between them.
        late = self._clock.boottime() + 2 * self._limits.renew_s >= self._good_until
        if late and not self.worker.alone and not self._store.disk_is_full:
            for driver in held.values():
                await _end(driver, LeaseLost(f"its lease could not be renewed: {why}"))


async def _end(driver: Held, why: HostError | StaleEpoch) -> None:
    """What carries its agent, at once."""
    driver.fail(why)
    if driver.live is not None:
        await driver.live.kill()
