"""Machines as carriers: the driver's view of `torpor.control.machines`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, snapshots
from torpor.contextlog.runs import RunRow
from torpor.contextlog.store import LogStore
from torpor.control.carrier import Journal, Origin
from torpor.control.conversation import Conversation
from torpor.control.machines import Captured, Live, Machines, Taken
from torpor.control.thaw import say_journal, thaw
from torpor.control.warm import Base
from torpor.model.ids import AgentVersion, Epoch, RunId
from torpor.policy import freeze
from torpor.wire.link import LinkState


class MachineCarriers:
    """See `torpor.control.carrier.Carriers`. Origins have snapshots."""

    terms = freeze.MACHINE

    def __init__(self, machines: Machines, store: LogStore) -> None:
        self._machines = machines
        self._store = store

    async def restore(self, origin: Origin, heard: asyncio.Event) -> MachineCarrier:
        snapshot = origin.snapshot
        assert snapshot is not None
        link = LinkState.from_json(snapshot.link or {})
        version = origin.row.version
        live = await self._machines.restore(
            snapshot.manifest, link, heard, origin.key, version=version
        )
        return MachineCarrier(self._machines, live, lambda: self._get_ready(live, version))

    async def _get_ready(self, live: Live, version: AgentVersion) -> None:
        """Have ready what the next machine of the agent is best made from."""
        template = await self._store.read(lambda c: _template(c, version))
        if template is not None:
            await self._machines.get_ready(live, version, template)


class MachineCarrier:
    """See `torpor.control.carrier.Carrier` and `Freezer`."""

    def __init__(
        self, machines: Machines, live: Live, get_ready: Callable[[], Awaitable[None]]
    ) -> None:
        self._machines = machines
        self._get_ready = get_ready
        self.live = live

    @property
    def guest(self) -> Conversation:
        return self.live.guest

    @property
    def pid(self) -> int:
        return self.live.machine.pid

    @property
    def memory_mib(self) -> int:
        return self.live.shape.memory_mib

    @property
    def warm(self) -> bool:
        return self.live.flat

    @property
    def freezer(self) -> MachineCarrier:
        return self

    def cpu_s(self) -> float:
        return self.live.machine.cpu_s()

    async def thaw(self, run: RunId, epoch: Epoch, *, started: bool, journal: Journal) -> None:
        await thaw(self.live.guest, run, epoch, started=started, journal=journal)

    def start(self, epoch: Epoch, row: RunRow, journal: Journal) -> None:
        guest = self.live.guest
        last = say_journal(guest, journal)
        guest.say("start", run=row.id, epoch=epoch, agent=row.agent, input=row.input, journal=last)

    async def woken(self) -> None:
        await self._machines.learn_faults(self.live)
        await self._get_ready()

    async def served(self) -> dict[str, Any]:
        return await self._machines.served(self.live)

    async def damage(self) -> str | None:
        return await self._machines.damage_of(self.live)

    async def kill(self) -> None:
        await self.live.machine.kill()

    async def discard(self) -> None:
        await self._machines.discard(self.live)

    def capturing(self) -> AbstractAsyncContextManager[Taken]:
        return self._machines.capturing(self.live)

    async def keep(self, taken: Taken) -> Captured:
        return await self._machines.keep(self.live, taken)

    async def carry_on(self) -> None:
        await self._machines.carry_on(self.live)


def _template(c: Connection, version: AgentVersion) -> Base | None:
    template = agents.get_agent(c, version).template
    if template is None:
        return None
    row = snapshots.get_snapshot(c, template)
    return Base(row.manifest, LinkState.from_json(row.link or {}))
