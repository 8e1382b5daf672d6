"""Machines as carriers: the driver's view of `torpor.machines.host`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, snapshots
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import TorporError
from torpor.core.ids import AgentVersion, Epoch, RunId, SnapshotId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.runfiles import RunFile
from torpor.logstore.protocol import Store
from torpor.machines.capture import Captured, Taken
from torpor.machines.channel import Channel
from torpor.machines.host import Frozen, Machines
from torpor.machines.live import Live
from torpor.machines.thaw import say_journal, thaw
from torpor.machines.warm import Base
from torpor.pager.launch import ensure_pager
from torpor.policy import freeze
from torpor.wire import names
from torpor.wire.link import LinkState
from torpor.worker.carrier import Journal, Origin
from torpor.worker.loading import logged, source_from
from torpor.worker.runfiles import RunFiles
from torpor.worker.templates import Templates, keep_template

log = logging.getLogger(__name__)

# What QEMU needs beside the guest's memory.
OVERHEAD_MIB = 96


class MachineCarriers:
    """See `torpor.worker.carrier.Carriers`. Origins have snapshots."""

    def __init__(
        self,
        machines: Machines,
        store: Store,
        files: RunFiles,
        templates: Templates,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
        terms: freeze.Terms = freeze.MACHINE,
    ) -> None:
        self.clock, self.terms = clock, terms
        self._limits = limits
        self._machines = machines
        self._templates = templates
        self._store = store
        self._files = files
        self._alive: set[MachineCarrier] = set()
        self._renewing: defaultdict[AgentVersion, asyncio.Lock] = defaultdict(asyncio.Lock)

    def need_mib(self, memory_mib: int) -> int:
        return memory_mib + OVERHEAD_MIB

    async def origins(self, row: RunRow) -> list[SnapshotRow | None]:
        def read(c: Connection) -> list[SnapshotRow | None]:
            agent = agents.get_agent(c, row.version)
            base = snapshots.base_of(c, row.id)
            template = snapshots.get_snapshot(c, agent.template) if agent.template else None
            found = [*snapshots.list_snapshots(c, row.id), base, template]
            # Those of another version are of before an upgrade.
            return [each for each in found if each is not None and each.version == agent.version]

        return await self._store.read(read)

    async def renew(self, version: AgentVersion, useless: Collection[SnapshotId]) -> None:
        async with self._renewing[version]:
            agent = await self._store.read(lambda c: agents.get_agent(c, version))
            if agent.template is not None and agent.template not in useless:
                return
            tar = await self._store.read(lambda c: agents.agent_source(c, version))
            template = await self._templates.make(source_from(agent, tar), version, logged)
            await self._store.write(lambda c: keep_template(c, version, template, self.clock.now()))

    async def restore(self, origin: Origin, changed: asyncio.Event) -> MachineCarrier:
        snapshot = origin.snapshot
        assert snapshot is not None
        link = LinkState.from_json(snapshot.link or {})
        version = origin.row.version
        frozen = Frozen(snapshot.manifest, link, origin.key, changed)
        live = await self._machines.restore(frozen, version=version)
        carrier = MachineCarrier(
            self._machines,
            live,
            self._files,
            origin.row.id,
            lambda: self._get_ready(live, version),
            self._alive.discard,
        )
        self._alive.add(carrier)
        return carrier

    async def tend(self) -> None:
        await asyncio.gather(self._watch_pager(), self._drop_idle())

    async def _drop_idle(self) -> None:
        while True:
            self._machines.drop_idle()
            await self.clock.sleep(self._limits.idle_look_s)

    async def _watch_pager(self) -> None:
        """When the pager dies, no machine can read its memory any more: none is left hanging."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(self._machines.pager.socket)
                with contextlib.closing(writer):
                    await reader.read()
            except OSError as error:
                log.warning("pager: %s", error)
            log.warning("the pager is gone; its machines are ended and recovered")
            doomed = [carrier.kill() for carrier in self._alive]
            await asyncio.gather(*doomed, self._machines.forget_spares())
            await self._machines.pager.close()
            try:
                await ensure_pager(self._machines.home)
            except TorporError as error:
                log.error("the pager cannot be started: %s", error.message)
                await self.clock.sleep(self._limits.pager_retry_s)

    async def close(self) -> None:
        await self._machines.close()

    async def _get_ready(self, live: Live, version: AgentVersion) -> None:
        """Have ready what the next machine of the agent is best made from."""
        template = await self._store.read(lambda c: _template(c, version))
        if template is not None:
            await self._machines.get_ready(live, version, template)


class MachineCarrier:
    """See `torpor.worker.carrier.Carrier` and `Freezer`."""

    def __init__(
        self,
        machines: Machines,
        live: Live,
        files: RunFiles,
        run: RunId,
        get_ready: Callable[[], Awaitable[None]],
        gone: Callable[[MachineCarrier], None],
    ) -> None:
        self._machines = machines
        self._files = files
        self._run = run
        self._get_ready = get_ready
        self._gone = gone
        self.live = live

    @property
    def guest(self) -> Channel:
        return self.live.guest

    @property
    def pid(self) -> int:
        return self.live.machine.pid

    @property
    def memory_mib(self) -> int:
        return self.live.shape.memory_mib

    @property
    def taken_mib(self) -> int:
        return self.memory_mib + OVERHEAD_MIB

    @property
    def warm(self) -> bool:
        return self.live.warm

    @property
    def freezer(self) -> MachineCarrier:
        return self

    def cpu_s(self) -> float:
        return self.live.machine.cpu_s()

    async def thaw(self, run: RunId, epoch: Epoch, *, started: bool, journal: Journal) -> None:
        await thaw(self.live.guest, run, epoch, started=started, journal=journal)

    async def start(self, epoch: Epoch, row: RunRow, journal: Journal) -> None:
        guest = self.live.guest
        await self._files.lay(row.id, self._put)
        last = say_journal(guest, journal)
        facts = {"run": row.id, "epoch": epoch, "agent": row.agent, "input": row.input}
        guest.say(names.START, **facts, env=row.env, journal=last)

    async def _put(self, file: RunFile, content: Iterator[bytes]) -> None:
        guest = self.live.guest
        guest.say(names.FILE, path=file.path, bytes=file.bytes)
        while (piece := await asyncio.to_thread(next, content, None)) is not None:
            await guest.send_file(piece)

    async def woken(self) -> None:
        try:
            await self._machines.learn(self.live)
            await self._get_ready()
        except (TorporError, OSError) as error:  # the next resume is slower, that is all
            log.info("run %s: %s", self._run, error)

    async def served(self) -> dict[str, Any]:
        return await self._machines.served(self.live)

    async def damage(self) -> str | None:
        return await self._machines.damage_of(self.live)

    async def kill(self) -> None:
        await self.live.machine.kill()

    async def discard(self) -> None:
        self._gone(self)
        await self._machines.discard(self.live)

    def capturing(self) -> AbstractAsyncContextManager[Taken]:
        return self._machines.capturing(self.live)

    async def keep(self, taken: Taken, goes_on: Callable[[], bool] = lambda: False) -> Captured:
        return await self._machines.keep(self.live, taken, goes_on=goes_on)

    async def carry_on(self) -> None:
        await self._machines.carry_on(self.live)


def _template(c: Connection, version: AgentVersion) -> Base | None:
    template = agents.get_agent(c, version).template
    if template is None:
        return None
    row = snapshots.get_snapshot(c, template)
    return Base(row.manifest, LinkState.from_json(row.link or {}))
