"""The real service: every resource of `torpor.service.service.Service`, put together.

It opens the log at once, and engines when something needs them (`torpor.control.engines`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from prometheus_client.registry import Collector

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import deployments, runs
from torpor.control.engines import Engines, Shared
from torpor.control.handing import Handing
from torpor.control.observe import telemetry
from torpor.control.processes import stop_processes
from torpor.control.scheduler.scheduler import Scheduler
from torpor.control.service.agents import Agents
from torpor.control.service.deleting import Deleting
from torpor.control.service.details import Details
from torpor.control.service.egress import Egress
from torpor.control.service.events import Events
from torpor.control.service.execs import Execs
from torpor.control.service.files import Artifacts, Files
from torpor.control.service.forking import Forking
from torpor.control.service.hooks import Hooks
from torpor.control.service.keys import ApiKeys
from torpor.control.service.links import Links
from torpor.control.service.logs import Logs
from torpor.control.service.queries import Queries
from torpor.control.service.queues import Queues
from torpor.control.service.runs import Created, Runs
from torpor.control.service.schedules import Schedules
from torpor.control.service.secrets import Secrets
from torpor.control.service.status import Status
from torpor.control.service.storage import Snapshots, Storage
from torpor.control.service.tokens import Urls
from torpor.control.service.transfers import Transfers
from torpor.control.service.waits import AnswerWriter, Waits
from torpor.control.service.webhooks import Webhooks
from torpor.control.storage import storage
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.home import Home
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.prices import Prices
from torpor.core.states import UNFINISHED
from torpor.logstore.protocol import Store
from torpor.logstore.sqlite import SqliteStore
from torpor.machines.host import Machines
from torpor.service.service import Health, Totals
from torpor.snapshot.store import SnapshotStore
from torpor.worker.authorities import Authorities
from torpor.worker.beside import Beside
from torpor.worker.commands import Commands
from torpor.worker.metrics import Metrics
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys, switched_on
from torpor.worker.values import Values
from torpor.worker.way import prices_of


class Service:
    def __init__(
        self,
        home: Home,
        store: Store,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._home, self._store, self._clock = home, store, clock
        self._blobs = LocalBlobs(home.blobs)
        blobs = SnapshotStore(self._blobs, lambda image: home.images / image / "root.erofs")
        keys = SealingKeys(home, store, on=switched_on())
        metrics, commands = Metrics(), Commands()
        self._keeper = storage.Storage(store, blobs, keys, metrics, clock, limits)
        shared = Shared(
            home=home,
            store=store,
            blobs=blobs,
            keys=keys,
            handing=Handing(store),
            authorities=Authorities(store, keys, clock),
            values=Values(blobs.blobs, home.run, store, keys),
            files=RunFiles(blobs.blobs, store, keys, clock, limits),
            metrics=metrics,
            commands=commands,
            on_end=self._keeper.run_ended,
            clock=clock,
            limits=limits,
        )
        engines = self._engines = Engines(shared)
        urls = self._urls = Urls(keys)
        writer = AnswerWriter(store, self._perhaps_answered)
        self._deleting = Deleting(home, store, self._keeper, clock, limits)

        self.agents = Agents(store, engines, clock)
        self.waits = Waits(store, urls, writer, clock)
        self.links = Links(store, urls, self.waits)
        self.events = Events(writer, clock)
        self.runs = Runs(
            shared,
            engines,
            Details(home, store, engines, self.waits, clock),
            Forking(store, keys, clock),
            self._deleting,
        )
        self.transfers = Transfers(shared, engines)
        self.logs = Logs(store, Beside(home.output))
        self.hooks = Hooks(store, keys, self.events, urls, Created(engines, clock), clock)
        self.keys = ApiKeys(store, clock)
        self.secrets = Secrets(store, keys, shared.handing, clock)
        self.queues = Queues(store, clock)
        self.schedules = Schedules(store, clock)
        self.snapshots = Snapshots(store, self._keeper)
        self.storage = Storage(shared, self._keeper, self._deleting)
        self.files = Files(shared.files)
        self.artifacts = Artifacts(store, shared.values)
        self.execs = Execs(store, engines, commands, clock)
        self.queries = Queries(home, store, clock)
        self.egress = Egress(store, self.queries, engines.broker.explain)

        self._status = Status(shared, engines, self.queues)
        self._webhooks = Webhooks(store, keys, self.waits, clock=clock, limits=limits)
        self._tending: list[asyncio.Task[None]] = []

    @classmethod
    async def open(cls, home: Home) -> Service:
        """Open the log. Where runs are unfinished, their engines are made ready for them now."""
        home.create()
        service = cls(home, await asyncio.to_thread(SqliteStore.open, home.database))
        # Before anything can write there: it removes what an earlier server was writing.
        await asyncio.to_thread(service._blobs.sweep)
        engine = service._engines.choice.engine
        await service._store.write(lambda c: deployments.set_default_engine(c, engine))
        needed = await service._store.read(lambda c: runs.engines_of(c, UNFINISHED))
        if any(home.images.iterdir()):
            needed.add(engine)
        for engine in needed:
            service._engines.ready_soon(engine)
        service._tend(service._keeper.tend())
        service._tend(service._deleting.tend())
        service._tend(service._webhooks.tend())
        if telemetry.wanted():
            sender = telemetry.Otlp()
            service._tend(telemetry.Telemetry(service._store, sender, service._clock).tend())
        return service

    @property
    def machines(self) -> Machines:
        """This host's machines; there from the first deployment of an agent to them on."""
        return self._engines.all_machines[0]

    @property
    def scheduler(self) -> Scheduler | None:
        """There from the first engine that was needed on."""
        return self._engines.scheduler

    async def health(self) -> Health:
        return await self._status.health(self._urls.base)

    async def totals(self) -> Totals:
        return await self._status.totals()

    async def metrics(self) -> Collector:
        return await self._status.metrics()

    async def prices(self) -> Prices:
        return await asyncio.to_thread(prices_of, self._home)

    def publish(self, base: str) -> None:
        self._urls.publish(base)

    async def hand_over(self, report: Callable[[str], None]) -> None:
        self._engines.leaving = True
        self.execs.leave()
        if self._engines.scheduler is not None:
            await self._engines.scheduler.hand_over(report)

    async def stop(self) -> None:
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        await self._webhooks.stop()
        await self.execs.stop()
        await self._engines.stop()
        await stop_processes(self._home)
        await asyncio.to_thread(self._blobs.close)
        await asyncio.to_thread(self._store.close)

    def _tend(self, work: Coroutine[Any, Any, None]) -> None:
        self._tending.append(asyncio.create_task(work))

    def _perhaps_answered(self) -> None:
        if self._engines.scheduler is not None:
            self._engines.scheduler.answered_perhaps()
