"""This host's engines: which one is meant where none is named, and each made ready on first need.

That may take a minute the first time (image, engine, pager), and whoever waits should see why.
One scheduler and one way to the model serve all engines.

What an engine is put together from follows from what it can do: one that freezes has machines,
templates and carriers of machines (`OnMachines`), any other has processes (`OnProcesses`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from torpor.contextlog.agents import AgentRow
from torpor.control.handing import Handing
from torpor.control.scheduler.scheduler import Scheduler
from torpor.core.agentfile import AgentSource
from torpor.core.checks import Check
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import HostError, InternalError, Invalid, TorporError
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.workers import Worker
from torpor.egress.client import BrokerClient
from torpor.engine import registry
from torpor.engine.host import Boot, Need
from torpor.engine.registry import Entry
from torpor.image.build import ensure_image
from torpor.image.deps import deps_are_here, ensure_deps
from torpor.logstore.protocol import Store
from torpor.machines.host import Machines, tidy
from torpor.pager.launch import ensure_pager, require_fuse
from torpor.snapshot.store import SnapshotStore
from torpor.worker import parts
from torpor.worker.authorities import Authorities
from torpor.worker.carrier import Carriers
from torpor.worker.commands import Commands
from torpor.worker.loading import Loaded, Progress, logged
from torpor.worker.metrics import Metrics
from torpor.worker.onmachines import MachineCarriers
from torpor.worker.onprocesses import ProcessCarriers
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import SealingKeys
from torpor.worker.templates import Template, Templates
from torpor.worker.values import Values

log = logging.getLogger(__name__)


def _find_fuse() -> str:
    require_fuse()
    return "/dev/fuse opens, fusermount3 is here"


FUSE = Need("FUSE", _find_fuse)


@dataclass(frozen=True)
class Choice:
    engine: str
    why: str


def needs_of(entry: Entry) -> tuple[Need, ...]:
    """What must be on the host for an engine, the pager's needs among it."""
    paged = entry.capabilities.freezes and not entry.capabilities.own_page_files
    return entry.on_host().NEEDS + ((FUSE,) if paged else ())


def choose() -> Choice:
    """The engine of agents for which none is named. Raises Invalid (the setting is wrong)."""
    if (named := registry.from_environment()) is not None:
        return Choice(named, f"--engine or {registry.SETTING} says so")
    lacking: list[Check] = []
    for entry in registry.ENGINES.values():
        needs = needs_of(entry)
        missing = [check for need in needs if not (check := need.check()).ok]
        if missing:
            lacking += missing
        elif needs:
            return Choice(entry.name, f"{' and '.join(need.name for need in needs)} are here")
        else:
            break
    return Choice(registry.FALLBACK.name, f"no machine can run here: {lacking[0].detail}")


@dataclass(frozen=True)
class Deployed:
    """What became of an agent's source on an engine."""

    loaded: Loaded
    template: Template | None  # where the engine freezes


class Ready(Protocol):
    """An engine that is ready on this host."""

    @property
    def carriers(self) -> Carriers: ...

    @property
    def image(self) -> str:
        """The image that agents stand on; the engine's name where there is none."""

    async def has(self, agent: AgentRow, source: AgentSource, progress: Progress) -> bool:
        """Whether an agent that was deployed before can be run as it is. What it lacks of
        dependencies is brought. Raises TorporError."""

    async def deploy(
        self, source: AgentSource, version: AgentVersion, progress: Progress
    ) -> Deployed:
        """Raises Invalid, GuestError (it does not load), HostError."""


@dataclass(frozen=True)
class OnMachines:
    machines: Machines
    templates: Templates
    carriers: MachineCarriers

    @property
    def image(self) -> str:
        return self.machines.image.digest

    async def has(self, agent: AgentRow, source: AgentSource, progress: Progress) -> bool:
        if not await self.templates.serves(agent):
            return False
        home, wanted = self.machines.home, source.dependencies
        if not deps_are_here(home, wanted):
            await asyncio.to_thread(ensure_deps, home, wanted, progress)
        return True

    async def deploy(
        self, source: AgentSource, version: AgentVersion, progress: Progress
    ) -> Deployed:
        template = await self.templates.make(source, version, progress)
        return Deployed(template.loaded, template)


@dataclass(frozen=True)
class OnProcesses:
    image: str
    carriers: ProcessCarriers

    async def has(self, agent: AgentRow, source: AgentSource, progress: Progress) -> bool:
        return True

    async def deploy(
        self, source: AgentSource, version: AgentVersion, progress: Progress
    ) -> Deployed:
        return Deployed(await self.carriers.load(source, version, progress), None)


@dataclass(frozen=True)
class Shared:
    """What all engines of a deployment share. `on_end` is called when a run was suspended or has
    ended."""

    home: Home
    store: Store
    blobs: SnapshotStore
    keys: SealingKeys
    handing: Handing
    authorities: Authorities
    values: Values
    files: RunFiles
    metrics: Metrics
    commands: Commands
    on_end: Callable[[], None]
    clock: Clock = SYSTEM_CLOCK
    limits: ServerLimits = LIMITS


class Engines:
    def __init__(self, shared: Shared) -> None:
        self.choice = choose()
        self.scheduler: Scheduler | None = None  # once any engine is ready
        self.broker = BrokerClient.of(shared.home)  # connected when it is first needed
        self.leaving = False  # the server is about to stop: nothing is made ready any more
        self._shared = shared
        self._ready: dict[str, OnMachines | OnProcesses] = {}
        # One is not kept waiting by another, whose image may just be built.
        self._readying = {name: asyncio.Lock() for name in (*registry.NAMES, "scheduler", "tidy")}
        self._tidied = False
        self._background: set[asyncio.Task[None]] = set()

    async def ready(self, engine: str, progress: Progress = logged) -> OnMachines | OnProcesses:
        """The engine, made ready if it is not. Raises Invalid (there is none of this name),
        HostError."""
        entry = registry.get(engine)
        async with self._readying[engine]:
            found = self._ready.get(engine)
            if found is None:
                if self.leaving:
                    raise HostError(
                        "the server is about to stop", hint="Run torpor up, then try again."
                    )
                found = self._ready[engine] = await self._make_ready(entry, progress)
            elif isinstance(found, OnMachines):
                await self._require_image(found, progress)
            return found

    async def machines(self, engine: str) -> Machines:
        """Raises Invalid (it has none), HostError."""
        found = await self.ready(engine)
        if isinstance(found, OnProcesses):
            raise Invalid(f"the engine {engine} has no machines")
        return found.machines

    async def processes(self, engine: str) -> ProcessCarriers:
        """Raises HostError."""
        found = await self.ready(engine)
        if isinstance(found, OnMachines):
            raise InternalError(f"agents of the engine {engine} are not processes of this host")
        return found.carriers

    @property
    def all_machines(self) -> list[Machines]:
        """Of the engines that are ready, the one that is used by default first."""
        found = sorted(self._ready.items(), key=lambda each: each[0] != self.choice.engine)
        return [ready.machines for _, ready in found if isinstance(ready, OnMachines)]

    @property
    def awake(self) -> int:
        """How many runs are carried now."""
        drivers = self.scheduler.drivers.values() if self.scheduler else ()
        return sum(driver.live is not None for driver in drivers)

    def memory(self) -> dict[str, int | None]:
        """How much of the host's memory runs may take, and take; None before an engine is ready."""
        room = None if self.scheduler is None else self.scheduler.room()
        return {
            "memory_mib": None if room is None else room.capacity.mib,
            "memory_taken_mib": None if room is None else room.taken_mib,
        }

    def ready_soon(self, engine: str) -> None:
        """Make it ready in the background: runs of it are waiting."""
        if self.scheduler is None or not self.scheduler.serves(engine):
            task = asyncio.create_task(self._get_ready(engine))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    async def stop(self) -> None:
        for task in list(self._background):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.scheduler is not None:
            await self.scheduler.stop()
        await self.broker.close()

    async def _get_ready(self, engine: str) -> None:
        try:
            await self.ready(engine)
        except TorporError as error:
            log.error("engine %s cannot be used: %s %s", engine, error.message, error.hint)

    async def _make_ready(self, entry: Entry, progress: Progress) -> OnMachines | OnProcesses:
        put_together: Callable[[Entry, Progress], Coroutine[Any, Any, OnMachines | OnProcesses]]
        put_together = self._on_machines if entry.capabilities.freezes else self._on_processes
        ready = await put_together(entry, progress)
        await (await self._ready_scheduler()).serve(entry.name, ready.carriers)
        return ready

    async def _on_machines(self, entry: Entry, progress: Progress) -> OnMachines:
        shared, home = self._shared, self._shared.home
        for need in needs_of(entry):
            need.find()
        await shared.keys.check()
        image = await asyncio.to_thread(ensure_image, home, progress)
        progress("engine", "looking for the best way to run machines", None)
        boot = Boot(image.kernel, image.initramfs)
        engine = await asyncio.to_thread(entry.on_host().open_engine, boot, home.cache)
        pager, _ = await asyncio.gather(ensure_pager(home), self._ready_scheduler())
        async with self._readying["tidy"]:
            if not self._tidied:
                await tidy(home, pager)
                self._tidied = True
        machines = Machines(home, shared.blobs, engine, image, pager)
        time = (shared.clock, shared.limits)
        templates = Templates(machines, shared.store, shared.authorities, *time)
        carriers = MachineCarriers(machines, shared.store, shared.files, templates, *time)
        return OnMachines(machines, templates, carriers)

    async def _on_processes(self, entry: Entry, progress: Progress) -> OnProcesses:
        shared = self._shared
        time = (shared.clock, shared.limits)
        around = (shared.store, shared.files, shared.authorities)
        carriers = ProcessCarriers(shared.home, *around, *time)
        await carriers.tidy()
        return OnProcesses(entry.name, carriers)

    async def _require_image(self, ready: OnMachines, progress: Progress) -> None:
        if not ready.machines.image.is_here():
            image = await asyncio.to_thread(ensure_image, self._shared.home, progress)
            if image.digest != ready.image:
                raise HostError(
                    "the guest image was lost, and Debian's packages are newer now",
                    hint="Run torpor down, then deploy again: a new image is used.",
                )

    async def _ready_scheduler(self) -> Scheduler:
        shared = self._shared
        async with self._readying["scheduler"]:
            if self.scheduler is None:
                await self.broker.connect()
                await shared.handing.begin(self.broker)
                self.scheduler = Scheduler(
                    parts.Shared(
                        store=shared.store,
                        broker=self.broker,
                        keys=shared.keys,
                        authorities=shared.authorities,
                        values=shared.values,
                        metrics=shared.metrics,
                        commands=shared.commands,
                        clock=shared.clock,
                        limits=shared.limits,
                    ),
                    Worker.of(shared.home),
                    shared.on_end,
                )
                self.scheduler.start()
            return self.scheduler
