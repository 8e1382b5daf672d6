"""Scheduler and drivers over the real log, with real processes for agents: all of the `process`
engine but the server around it and the model behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import agents, entries, runs, waits
from torpor.contextlog.entries import EntryRow
from torpor.contextlog.runs import RunRow
from torpor.contextlog.waits import WaitRow
from torpor.control.scheduler.scheduler import Scheduler
from torpor.control.service.execs import Execs
from torpor.core.agentfile import AgentSource
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import FINAL, RunState
from torpor.egress.upstream import Request
from torpor.engine.process import NAME as PROCESS
from torpor.logstore.sqlite import SqliteStore
from torpor.policy import freeze
from torpor.testing.fakes.broker import PlayedBroker, PlayedUpstream, Reply
from torpor.testing.fakes.machines import Drivers
from torpor.testing.fakes.world import ALONE
from torpor.worker.authorities import Authorities
from torpor.worker.carrier import Carrier
from torpor.worker.commands import Commands
from torpor.worker.loading import logged, tar_of
from torpor.worker.metrics import Metrics
from torpor.worker.onprocesses import ProcessCarriers
from torpor.worker.parts import Shared
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys
from torpor.worker.values import Values

PROCESS_STUCK_S = 30.0


# A run that waits is suspended at once.
HASTY = replace(freeze.PROCESS, grace_s=0.0, worth_s=0.0)


# Nothing is written by chance.
CALM = replace(LIMITS, lease_s=7200.0, renew_s=3600.0)


class Plain:
    def __init__(
        self,
        directory: Path,
        limits: ServerLimits = CALM,
        terms: freeze.Terms = freeze.PROCESS,
    ) -> None:
        self.limits, self.terms = limits, terms
        self.home = Home(directory).create()
        self.store = SqliteStore.open(self.home.database)
        self.upstream = PlayedUpstream(self._answer)  # answers how often it was asked
        self.broker = PlayedBroker(self.upstream)
        self.scheduler: Scheduler
        self.carriers: ProcessCarriers
        self.files: RunFiles

    @property
    def requests(self) -> list[bytes]:
        """What the model was asked."""
        return [request.body for request in self.upstream.requests]

    async def _answer(self, request: Request) -> Reply:
        return Reply(200, {"content-type": "text/plain"}, b"answer %d" % len(self.requests))

    async def start(self) -> None:
        """A server starts."""
        await self.broker.client.connect()
        keys = SealingKeys(self.home, self.store, on=False)
        blobs = LocalBlobs(self.home.blobs)
        values = Values(blobs, self.home.run, self.store, keys)
        self.files = RunFiles(blobs, self.store, keys, limits=self.limits)
        commands = Commands()
        authorities = Authorities(self.store, keys)
        given = (self.store, self.broker.client, keys, authorities, values)
        shared = Shared(*given, Metrics(), commands, limits=self.limits)
        self.scheduler = Scheduler(shared, ALONE)
        self.execs = Execs(self.store, PlainEngines(self), commands)
        self.scheduler.drivers = Drivers()
        self.scheduler.start()
        around = (self.home, self.store, self.files, authorities)
        self.carriers = ProcessCarriers(*around, limits=self.limits, terms=self.terms)
        await self.carriers.tidy()
        await self.scheduler.serve(PROCESS, self.carriers)

    async def stop(self) -> None:
        await self.execs.stop()
        await self.scheduler.stop()
        await self.store.write(lambda c: None)  # what it had begun to write is done, or not

    async def close(self) -> None:
        await self.stop()
        await self.broker.close()
        self.store.close()

    async def deploy(self, text: str, **facts: Any) -> AgentVersion:
        return await self.deploy_source(
            AgentSource("agent.py", {"agent.py": text.encode()}, **facts)
        )

    async def deploy_source(self, source: AgentSource) -> AgentVersion:
        version = source.version(PROCESS)
        loaded = await self.carriers.load(source, version, logged)
        spec = {"dependencies": [], "memory_mib": 512, "disk_mib": 64, "keep": ""}
        spec |= {"on_divergence": "stop", "env": dict(source.env)}
        await self.store.write(
            lambda c: agents.put_agent(
                c,
                agents.NewAgent(
                    engine=PROCESS,
                    version=version,
                    name="agent",
                    entry=source.entry,
                    source=tar_of(source),
                    spec=spec | {"image": PROCESS, "default": loaded.default},
                    agents=loaded.agents,
                ),
                time.time(),
            )
        )
        return version

    async def run(
        self,
        version: AgentVersion,
        agent: str | None = None,
        start: Start = AT_ONCE,
        *,
        files: Mapping[str, str] | None = None,
        **given: Any,
    ) -> RunId:
        def write(c: Connection) -> RunRow:
            how: dict[str, Any] = {
                "version": version,
                "agent": agent,
                "input": given,
                "start": start,
                "files": files,
            }
            return runs.create_run(c, **how, now=time.time())

        return (await self.store.write(write)).id

    async def row(self, run: RunId) -> RunRow:
        return await self.store.read(lambda c: runs.get_run(c, run))

    async def entries(self, run: RunId, *kinds: str) -> list[EntryRow]:
        wanted = kinds or None
        return await self.store.read(lambda c: entries.read_entries(c, run, 0, wanted, 100_000))

    async def until(self, run: RunId, seen: Callable[[RunRow], bool]) -> RunRow:
        """Fails, showing the log, when the run is stuck."""
        with self.store.subscribe(run) as subscription:
            try:
                async with asyncio.timeout(PROCESS_STUCK_S):
                    while not seen(row := await self.row(run)):
                        await subscription.wait()
                    return row
            except TimeoutError as error:
                log = [(e.seq, e.kind, e.op, e.data) for e in await self.entries(run)]
                raise AssertionError("the run is stuck\n" + "\n".join(map(str, log))) from error

    async def ended(self, run: RunId) -> RunRow:
        """As it ended; its log is checked."""
        row = await self.until(run, lambda row: row.state in FINAL)
        log = await self.entries(run)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1))
        for kind in ("op.begin", "op.end"):  # rule 2
            ops = [entry.op for entry in log if entry.kind == kind]
            assert len(ops) == len(set(ops)), ops
        return row

    async def result(self, run: RunId) -> Any:
        row = await self.ended(run)
        assert row.state is RunState.COMPLETED, row.error
        return row.result

    async def suspended(self, run: RunId) -> None:
        """With no process left."""
        await self.until(run, lambda row: row.state is RunState.SUSPENDED and not row.ready)
        await self.gone(run)

    async def gone(self, run: RunId) -> None:
        """Its driver."""
        drivers = self.scheduler.drivers
        assert isinstance(drivers, Drivers)
        async with asyncio.timeout(PROCESS_STUCK_S):
            while run in drivers:
                drivers.went.clear()
                await drivers.went.wait()

    async def open_wait(self, run: RunId) -> WaitRow:
        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(PROCESS_STUCK_S):
                while not (found := await self.store.read(lambda c: waits.list_waits(c, run))):
                    await subscription.wait()
        return found[0]

    async def until_requested(self, run: RunId, op: str) -> None:
        """It waits for this and nothing else."""
        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(PROCESS_STUCK_S):
                while [
                    wait.op for wait in await self.store.read(lambda c: waits.list_waits(c, run))
                ] != [op]:
                    await subscription.wait()

    async def until_recorded(self, run: RunId, op: str) -> None:
        """The operation has a result."""
        with self.store.subscribe(run) as subscription:
            async with asyncio.timeout(PROCESS_STUCK_S):
                while op not in await self.ops(run, "op.end"):
                    await subscription.wait()

    async def answer(self, run: RunId, data: Any = None, *, approved: bool | None = None) -> None:
        """As `Service.complete` does."""
        wait = await self.open_wait(run)

        value = {"data": data, "approved": approved}
        await self.store.write(
            lambda c: waits.complete_wait(c, wait.id, value=value, now=time.time())
        )

    async def pid(self, run: RunId) -> int | None:
        """Of the run's process, once it has one; None if it has ended by then."""

        def live() -> Carrier | None:
            driver = self.scheduler.drivers.get(run)
            return None if driver is None else driver.live

        # It is there before the log says so.
        await self.until(run, lambda row: row.state in FINAL or live() is not None)
        carrier = live()
        return None if carrier is None else carrier.pid

    async def kill(self, run: RunId) -> None:
        pid = await self.pid(run)
        with contextlib.suppress(ProcessLookupError):  # it was, a moment ago
            if pid is not None:
                os.kill(pid, signal.SIGKILL)

    async def output(self, run: RunId) -> str:
        return "".join(entry.data["text"] for entry in await self.entries(run, "output"))

    async def ops(self, run: RunId, kind: str) -> list[OpId | None]:
        return [entry.op for entry in await self.entries(run, kind)]


class PlainEngines:
    """What `torpor.control.service.execs` needs of the engines."""

    def __init__(self, plain: Plain) -> None:
        self._plain = plain

    @property
    def scheduler(self) -> Scheduler:
        return self._plain.scheduler

    async def processes(self, engine: str) -> ProcessCarriers:
        return self._plain.carriers

    def ready_soon(self, engine: str) -> None: ...
