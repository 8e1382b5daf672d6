"""How this deployment is: its health, how much there is of everything, what is measured."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import asdict
from typing import Any

from prometheus_client.registry import Collector

import torpor
from torpor.contextlog.totals import totals
from torpor.control.engines import Engines, Shared
from torpor.control.service.queues import Queues
from torpor.core.errors import TorporError
from torpor.service.service import Health, Totals
from torpor.service.shapes import reply
from torpor.worker.metrics import Moment
from torpor.worker.way import prices_of


class Status:
    def __init__(self, shared: Shared, engines: Engines, queues: Queues) -> None:
        self._home, self._store, self._engines = shared.home, shared.store, engines
        self._metrics, self._queues = shared.metrics, queues
        self._started_at = shared.clock.now()

    async def health(self, public_url: str | None) -> Health:
        engines, machines = self._engines, self._engines.all_machines
        return reply(
            Health,
            version=torpor.__version__,
            pid=os.getpid(),
            engine=engines.choice.engine,
            engine_why=engines.choice.why,
            accel=machines[0].engine.accel if machines else None,
            home=str(self._home.root),
            model=engines.broker.upstream or None,
            public_url=public_url,
            started_at=self._started_at,
        )

    async def totals(self) -> Totals:
        return reply(Totals, asdict(await self._store.read(totals)) | self._engines.memory())

    async def metrics(self) -> Collector:
        log = await self._store.read(totals)
        pager: dict[str, Any] = {}
        hosts = self._engines.all_machines
        pooled = sum(each.waiting for each in hosts)
        if hosts:
            with contextlib.suppress(TorporError):  # it is just being started again
                pager = await hosts[0].pager.stats()
        queues = [*await self._queues.moments()]
        memory = self._engines.memory()
        machines = (self._engines.awake, pooled)
        moment = Moment(log, self._store.appended, *machines, pager, queues, memory)
        prices = await asyncio.to_thread(prices_of, self._home)
        return self._metrics.at(moment, prices)
