"""This host's engines: which one is meant when nobody says, and each made ready on first need.

That may take a minute the first time (image, engine, pager), and whoever waits should see why.
One scheduler and one way to the model serve all engines.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from torpor.control.scheduler.scheduler import Scheduler
from torpor.core.engines import ENGINES, PROCESS, QEMU, SETTING, told_engine
from torpor.core.errors import HostError, TorporError
from torpor.core.home import Home
from torpor.egress.models import Model
from torpor.engine.qemu.engine import QemuEngine
from torpor.engine.qemu.probe import Probe, find_qemu, probe
from torpor.image.build import ensure_image
from torpor.logstore.sqlite import LogStore
from torpor.machines.host import Machines
from torpor.pager.launch import ensure_pager, require_fuse
from torpor.snapshot.store import SnapshotStore
from torpor.worker.commands import Commands
from torpor.worker.loading import Progress, logged
from torpor.worker.metrics import Metrics
from torpor.worker.onmachines import MachineCarriers
from torpor.worker.onprocesses import ProcessCarriers
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import Keys
from torpor.worker.templates import Templates
from torpor.worker.values import Values

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    engine: str
    why: str


def choose() -> Choice:
    """The engine of agents for which none is named. Raises Invalid (the setting is wrong)."""
    told = told_engine()
    if told is not None:
        return Choice(told, f"{SETTING} says so")
    try:
        find_qemu()
        require_fuse()
    except TorporError as error:
        return Choice(PROCESS, f"no machine can run here: {error.message}")
    return Choice(QEMU, "QEMU and FUSE are here")


class Engines:
    def __init__(
        self,
        home: Home,
        store: LogStore,
        blobs: SnapshotStore,
        keys: Keys,
        values: Values,
        files: RunFiles,
        metrics: Metrics,
        on_end: Callable[[], None],
        commands: Commands,
    ) -> None:
        """`on_end` is told when a run was suspended or has ended."""
        self.choice = choose()
        self.probe: Probe | None = None  # once machines are ready
        self.made_machines: Machines | None = None  # likewise
        self.made_templates: Templates | None = None  # likewise
        self.scheduler: Scheduler | None = None  # once any engine is
        self.model: Model | None = None
        self._home, self._store, self._blobs, self._keys = home, store, blobs, keys
        self._values, self._files = values, files
        self._metrics, self._on_end = metrics, on_end
        self._commands = commands
        self.leaving = False  # the server is about to stop: nothing is made ready any more
        self._processes: ProcessCarriers | None = None
        # One is not kept waiting by another, whose image may just be built.
        self._readying = {name: asyncio.Lock() for name in (*ENGINES, "scheduler")}
        self._background: set[asyncio.Task[None]] = set()

    async def machines(self, progress: Progress = logged) -> Machines:
        """Raises HostError."""
        async with self._readying[QEMU]:
            if self.made_machines is None:
                self._check_staying()
                self.made_machines = await self._ready_machines(progress)
            elif not self.made_machines.image.is_here():
                image = await asyncio.to_thread(ensure_image, self._home, progress)
                if image.digest != self.made_machines.image.digest:
                    raise HostError(
                        "the guest image was lost, and Debian has newer packages than it had",
                        hint="torpor down, then deploy again: there is another image now.",
                    )
            return self.made_machines

    @property
    def templates(self) -> Templates:
        """Once machines are ready."""
        assert self.made_templates is not None
        return self.made_templates

    async def processes(self) -> ProcessCarriers:
        """Raises HostError."""
        async with self._readying[PROCESS]:
            if self._processes is None:
                self._check_staying()
                processes = ProcessCarriers(self._home, self._store, self._files)
                await processes.tidy()
                await (await self._ready_scheduler()).serve(PROCESS, processes)
                self._processes = processes
            return self._processes

    def ready_soon(self, engine: str) -> None:
        """Make it ready in the background: runs of it are waiting."""
        if self.scheduler is None or not self.scheduler.serves(engine):
            task = asyncio.create_task(self._get_ready(engine))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def _check_staying(self) -> None:
        if self.leaving:
            raise HostError("the server is about to stop", hint="torpor up, then again.")

    async def stop(self) -> None:
        for task in list(self._background):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.scheduler is not None:
            await self.scheduler.stop()
        if self.model is not None:
            await self.model.close()

    async def _get_ready(self, engine: str) -> None:
        try:
            await (self.machines() if engine == QEMU else self.processes())
        except TorporError as error:
            log.error("engine %s cannot be used: %s %s", engine, error.message, error.hint)

    async def _ready_machines(self, progress: Progress) -> Machines:
        find_qemu()
        require_fuse()
        await self._keys.check()
        image = await asyncio.to_thread(ensure_image, self._home, progress)
        progress("engine", "looking for the best way to run machines", None)
        self.probe = await asyncio.to_thread(probe, image.kernel, image.initramfs, self._home.cache)
        pager, scheduler = await asyncio.gather(ensure_pager(self._home), self._ready_scheduler())
        machines = Machines(self._home, self._blobs, QemuEngine(self.probe), image, pager)
        await machines.tidy()
        self.made_templates = templates = Templates(machines, self._store)
        carriers = MachineCarriers(machines, self._store, self._files, templates)
        await scheduler.serve(QEMU, carriers)
        return machines

    async def _ready_scheduler(self) -> Scheduler:
        async with self._readying["scheduler"]:
            if self.scheduler is None:
                self.model = await Model.open(self._home)
                self.scheduler = Scheduler(
                    self._store,
                    self.model,
                    self._keys,
                    self._values,
                    self._metrics,
                    self._on_end,
                    self._commands,
                )
                self.scheduler.start()
            return self.scheduler
