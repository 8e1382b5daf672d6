"""An agent's version becomes a template: a frozen machine that has loaded it.

    boot ──► base ──► import ahead ──► base ──► load the agent's files ──► template
             restored, if it is there: only what comes after it is done

Then the result is restored once: that proves that it restores, and tells which pages the way back
touches, so that every later restore gets them ahead. Bases are `torpor.worker.bases`'.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sqlalchemy import Connection

from torpor.contextlog import agents, snapshots
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.snapshots import NewSnapshot
from torpor.core.agentfile import AgentSource, no_agent
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.defining import may_define_agents
from torpor.core.egress import Rule, parse_egress
from torpor.core.errors import Damaged, GuestError, NotFound
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.core.imports import Import, leading_imports
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.position import Position
from torpor.core.presets import environment
from torpor.egress.authority import FACT, Authority
from torpor.engine.memory import PageNumbers
from torpor.engine.protocol import Shape
from torpor.image import recipe
from torpor.image.deps import check_python, ensure_deps, may_import_torpor
from torpor.logstore.protocol import Store
from torpor.machines.capture import Captured
from torpor.machines.host import Frozen, Machines
from torpor.machines.live import Live
from torpor.machines.thaw import resume, thaw
from torpor.machines.warm import Base
from torpor.snapshot.hot import as_template
from torpor.wire import names
from torpor.worker.authorities import Authorities
from torpor.worker.bases import Bases, booted_key, imported_key, outline
from torpor.worker.loading import Importing, Loaded, Progress, hear_loaded, tar_of

_REHEARSAL = RunId("rehearsal")


@dataclass(frozen=True)
class Template:
    captured: Captured
    loaded: Loaded
    boot_ms: float | None  # None: nothing was booted, it is made upon a base
    bytes: int  # of all that it is made of


class _Again(Exception):
    """What was imported ahead is not what the agent would have imported."""


@dataclass(frozen=True)
class _Wanted:
    """A template that is to be made."""

    source: AgentSource
    version: AgentVersion
    shape: Shape
    authority: Authority
    ahead: Sequence[Import]
    progress: Progress
    clock: Clock

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        return parse_egress(list(self.source.egress), self.source.entry)

    @cached_property
    def process(self) -> dict[str, Any]:
        """What its process is started with, and what is around it: what it may reach, and whom its
        clients trust."""
        return {
            "deps": bool(self.shape.deps),
            "env": dict(self.source.env),
            "egress": [rule.to_guest() for rule in self.rules],
            "placeholders": environment(list(self.source.egress)),
            "authority": self.authority.certificate,
        }

    @property
    def booted_key(self) -> str:
        return booted_key(self.shape, self.source, self.authority.fingerprint)

    @property
    def imported_key(self) -> str:
        return imported_key(self.shape, self.source, self.authority.fingerprint, self.ahead)

    def importing(self) -> Importing:
        """It begins now."""
        self.progress("load", f"importing {self.source.entry}", None)
        return Importing(
            self.source.entry, self.source.rules.max_import_s, self.progress, self.clock
        )


@dataclass(frozen=True)
class _Ready:
    """A machine that loads the agent's files next."""

    live: Live
    importing: Importing  # has begun
    boot_ms: float | None


class Templates:
    def __init__(
        self,
        machines: Machines,
        store: Store,
        authorities: Authorities,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._machines = machines
        self._store = store
        self._authorities = authorities
        self._clock, self._limits = clock, limits
        self._bases = Bases(machines, store, clock)
        self._unsuited: set[str] = set()  # keys of bases that cannot be

    async def serves(self, agent: AgentRow) -> bool:
        """Whether the agent has a template from which machines start on this host, and which trust
        an authority that is known here."""
        if (template := agent.template) is None:
            return False
        row = await self._store.read(lambda c: snapshots.get_snapshot(c, template))
        try:
            if await asyncio.to_thread(self._machines.fit.obstacle, row.manifest):
                return False
        except (Damaged, NotFound):
            return False
        trusted = self._machines.fit.facts_of(row.manifest).get(FACT, "")
        return await self._authorities.find(trusted) is not None

    async def make(
        self, source: AgentSource, version: AgentVersion, progress: Progress
    ) -> Template:
        """Raises Invalid, GuestError (the agent does not load), HostError."""
        machines = self._machines
        check_python(source.requires_python, recipe.PYTHON_VERSION, "machines have")
        deps = await asyncio.to_thread(ensure_deps, machines.home, source.dependencies, progress)
        if not may_define_agents(source.files) and not (deps and may_import_torpor(deps)):
            raise no_agent(source.entry)
        shape = machines.shape(
            memory_mib=source.memory_mib,
            disk_mib=source.disk_mib,
            deps=deps.parent.name if deps is not None else "",
        )
        authority = await self._authorities.current()
        ahead = leading_imports(source.files, source.entry)
        wanted = _Wanted(source, version, shape, authority, ahead, progress, self._clock)
        if wanted.imported_key in self._unsuited:
            wanted = replace(wanted, ahead=())
        try:
            template = await self._make(wanted)
        except _Again:
            self._unsuited.add(wanted.imported_key)
            template = await self._make(replace(wanted, ahead=()))
        captured = template.captured
        machines.warm_up(version, Base(captured.manifest, captured.link))
        return template

    async def _make(self, wanted: _Wanted) -> Template:
        machines, source = self._machines, wanted.source
        async with contextlib.AsyncExitStack() as stack:
            ready = await self._ready(wanted, stack)
            guest = ready.live.guest
            await guest.send_files(tar_of(source))
            leaves = await asyncio.to_thread(wanted.authority.leaves, wanted.rules)
            guest.say(
                names.LOAD,
                entry=source.entry,
                version=wanted.version,
                leaves=[leaf.to_json() for leaf in leaves],
                **wanted.process,
            )
            loaded = await hear_loaded(guest, ready.importing)
            captured = await self._freeze(ready.live, wanted.progress)
        size = await asyncio.to_thread(machines.store.size, captured.manifest)
        return Template(captured, loaded, ready.boot_ms, size)

    async def _ready(self, wanted: _Wanted, stack: contextlib.AsyncExitStack) -> _Ready:
        """A machine from the base that comes nearest, which has imported ahead what it may; on
        leaving the stack it is gone."""

        def discarded(live: Live) -> Live:
            stack.push_async_callback(self._machines.discard, live)
            return live

        key, booted = wanted.imported_key, wanted.booted_key
        if wanted.ahead and (live := await self._bases.restore(key)) is not None:
            return _Ready(discarded(live), wanted.importing(), None)
        boot_ms = None
        wanted.progress("boot", "looking for a booted machine", None)
        async with self._bases.making(booted):
            live = await self._bases.restore(booted)
            if live is not None:
                discarded(live)
            else:
                started = self._clock.monotonic()
                wanted.progress("boot", "booting a machine", None)
                live = discarded(await self._machines.boot(wanted.shape))
                await live.guest.hear(names.HELLO, within_s=self._limits.boot_s)
                boot_ms = (self._clock.monotonic() - started) * 1000
                await self._start_process(live, wanted)
                await self._keep_base(booted, live, wanted, first=True)
        importing = wanted.importing()
        if wanted.ahead and await self._import_ahead(live, wanted, importing):
            with importing.paused():
                await self._keep_base(key, live, wanted, first=False)
        return _Ready(live, importing, boot_ms)

    async def _start_process(self, live: Live, wanted: _Wanted) -> None:
        """Have the agent's process wait for what it is to load."""
        # It booted in 1970, and what is done while something is imported must not be of then.
        live.guest.say(names.CLOCK, time=self._clock.now())
        live.facts[FACT] = wanted.authority.fingerprint
        live.guest.say(names.IMPORT, entry=None, modules=[], **wanted.process)
        answer = await live.guest.hear(
            names.IMPORTED, names.LOAD_FAILED, within_s=self._limits.boot_s
        )
        if answer["t"] != names.IMPORTED:
            raise GuestError(f"the agent's process does not start: {answer['error']}")

    async def _import_ahead(self, live: Live, wanted: _Wanted, importing: Importing) -> bool:
        """Import what the agent would first; whether the machine is worth to be kept like that.
        Raises _Again, GuestError (it takes too long)."""
        source, guest = wanted.source, live.guest
        await guest.send_files(tar_of(outline(source)))
        modules = [{"module": each.module, "names": list(each.names)} for each in wanted.ahead]
        guest.say(names.IMPORT, entry=source.entry, modules=modules, **wanted.process)
        answer = await importing.hear(guest, names.IMPORTED)
        if answer["t"] != names.IMPORTED or "failed" in answer:
            raise _Again
        # What it printed is not to be lost: it is the first that the agent prints.
        printed = bool(guest.inbox)
        return (
            importing.took_s >= self._limits.base_worth_s and "unfit" not in answer and not printed
        )

    async def _keep_base(self, key: str, live: Live, wanted: _Wanted, *, first: bool) -> None:
        """Keep the machine, which then goes on, as the base of this key. The first one is as all
        others begin: its pages are laid out as a restore needs them."""
        wanted.progress("base", "freezing it as a base for templates", None)
        await self._prepare(live)
        async with self._machines.capturing(live) as taken:
            captured = await self._machines.keep(live, taken)
            if first:
                hot = await self._rehearse(captured, push=False)
                # Once more from nothing: now the pages that a restore pushes lie side by side.
                live.history.begin_anew()
                await asyncio.to_thread(self._machines.delete_alone, captured)
                captured = await self._machines.keep(live, taken, hot)
        await self._bases.keep(key, captured)
        await self._machines.carry_on(live)
        resume(live.guest)
        await live.guest.hear(names.RESUMED, within_s=self._limits.template_prepare_s)

    async def _freeze(self, live: Live, progress: Progress) -> Captured:
        progress("freeze", "freezing it as a template", None)
        await self._prepare(live)
        async with self._machines.capturing(live) as taken:
            draft = await self._machines.keep(live, taken)
        progress("rehearse", "restoring it once, to learn which pages that needs", None)
        hot = await self._rehearse(draft, push=True)
        store = self._machines.store
        stored = await asyncio.to_thread(as_template, store, draft.manifest, hot)
        size = draft.bytes + stored.bytes - len(store.manifest_bytes(draft.manifest))
        await asyncio.to_thread(store.delete_manifest, draft.manifest)
        return replace(draft, manifest=stored.manifest_digest, bytes=size)

    async def _prepare(self, live: Live) -> None:
        live.guest.say(names.PREPARE)
        limit_s = self._limits.template_prepare_s
        answer = await live.guest.hear(names.PREPARED, names.UNPREPARED, within_s=limit_s)
        if answer["t"] != names.PREPARED:
            raise GuestError(f"the machine could not prepare to be frozen: {answer['reason']}")

    async def _rehearse(self, captured: Captured, *, push: bool) -> PageNumbers:
        """Restore it once; the pages that this touched."""
        machines = self._machines
        frozen = Frozen(captured.manifest, captured.link)
        live = await (machines.restore(frozen) if push else machines.rehearse(frozen))
        try:
            await thaw(live.guest, _REHEARSAL, Epoch(1), started=False, journal=[])
            await machines.learn(live)
        finally:
            await machines.discard(live)
        learned, newest = live.learned, live.history.newest
        assert learned.faults is not None and learned.touched is not None and newest is not None
        if not push:
            return learned.faults
        return np.union1d(np.intersect1d(newest.hot, learned.touched), learned.faults)


def keep_template(c: Connection, version: AgentVersion, template: Template, now: float) -> AgentRow:
    """Record a template that is durable as the one of `version`, which was put before."""
    captured = template.captured
    new = NewSnapshot(
        version=version,
        manifest=captured.manifest,
        bytes=captured.bytes,
        pause_ms=captured.pause_ms,
        freeze_ms=captured.pause_ms + captured.store_ms,
        created_at=now,
        link=captured.link.to_json(),
        position=Position(pages=captured.pages),
    )
    snapshot = snapshots.record_snapshot(c, new)
    return agents.set_template(
        c, version, snapshot.id, boot_ms=template.boot_ms, template_bytes=template.bytes
    )
