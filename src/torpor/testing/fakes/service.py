"""A deployment in memory: `torpor.service.service.Service` without engines, whose runs do what
their input says (`torpor.testing.fakes.memory`).

    service = await MemoryService.open(home)
    run = await service.runs.start(RunRequest({"script": [["return", 1]]}, version=VERSION))

Keys, files and queues are the real ones. A file `hold` in the data directory holds up the handing
over. The state is kept in memory.json when it stops, so that a server on it can be restarted:

    python -m torpor.testing.fakes.service HOME
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.registry import Collector

from torpor.api.server import serve
from torpor.blobs.local import LocalBlobs
from torpor.control.handing import Handing
from torpor.control.service.files import Files
from torpor.control.service.keys import ApiKeys
from torpor.control.service.queues import Queues
from torpor.control.service.secrets import Secrets
from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.core.prices import Prices
from torpor.core.states import FINAL, RunState
from torpor.logstore.sqlite import SqliteStore
from torpor.service.service import Health, Totals
from torpor.service.shapes import reply
from torpor.service.waits import OPEN_WAITS
from torpor.testing.fakes import canned, resources
from torpor.testing.fakes.memory import PLAYER, SCHEMA, VERSION, Memory
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys

__all__ = ["PLAYER", "SCHEMA", "VERSION", "MemoryService", "close_stores"]

_opened: list[SqliteStore] = []


def close_stores() -> None:
    """Close what services opened that were never stopped: a store has threads and files."""
    while _opened:
        _opened.pop().close()


class MemoryService:
    def __init__(self, home: Home) -> None:
        self.home = home.create()
        store = SqliteStore.open(home.database)
        _opened.append(store)
        self.memory = Memory()
        self.stopped = False

        self.agents = resources.Agents(self.memory)
        self.runs = resources.Runs(self.memory)
        self.transfers = resources.Transfers(self.memory)
        self.logs = resources.Logs(self.memory)
        self.waits = resources.Waits(self.memory)
        self.links = resources.Links(self.waits)
        self.events = resources.Events(self.memory, self.waits)
        self.hooks = canned.Hooks()
        self.schedules = canned.Schedules()
        self.snapshots = canned.Snapshots(self.memory)
        self.storage = canned.Storage()
        self.artifacts = canned.Artifacts(self.memory)
        self.execs = canned.Execs(self.memory, home)
        self.queries = canned.Queries(self.memory)
        self.egress = resources.Egress(self.memory)
        self.keys = ApiKeys(store)
        sealing = SealingKeys(home, store, on=True)
        self.secrets = Secrets(store, sealing, Handing(store))
        self.files = Files(RunFiles(LocalBlobs(home.blobs), store, sealing))
        self.queues = Queues(store)

    @classmethod
    async def open(cls, home: Home) -> MemoryService:
        service = cls(home)
        if (kept := home.root / "memory.json").exists():
            service.memory.load(kept)
        return service

    async def health(self) -> Health:
        return reply(
            Health,
            version="0.1.0",
            pid=os.getpid(),
            engine="memory",
            engine_why="it is played",
            accel=None,
            home=str(self.home.root),
            model="none",
            public_url=self.memory.base,
            started_at=time.time(),
        )

    async def totals(self) -> Totals:
        states = [run["state"] for run in self.memory.runs.values()]
        waits = len(await self.waits.list(OPEN_WAITS))
        return reply(
            Totals,
            runs={each: states.count(each) for each in RunState},
            waits_open=waits,
            waits_asking=waits,
            snapshots=0,
            snapshot_bytes=0,
            memory_mib=4096,
            memory_taken_mib=608,
        )

    async def metrics(self) -> Collector:
        registry = CollectorRegistry()
        Gauge("torpor_runs", "Runs", registry=registry).set(len(self.memory.runs))
        return registry

    async def prices(self) -> Prices:
        return Prices({"m": {"input": 1.0, "output": 2.0}})

    def publish(self, base: str) -> None:
        self.memory.base = base

    async def hand_over(self, report: Callable[[str], None]) -> None:
        for run in self.memory.runs.values():
            if run["state"] not in FINAL:
                report(f"{run['id']}: frozen where it was")
        if (self.home.root / "hold").exists():
            await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True
        self.memory.stop()
        self.memory.save(self.home.root / "memory.json")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    try:
        asyncio.run(serve(Home(Path(sys.argv[1])), MemoryService.open))
    except TorporError as refused:
        sys.exit(f"error: {refused.message}")
