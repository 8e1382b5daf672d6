"""Plain processes as carriers: the `process` engine, which is replay alone and isolates nothing.

A carrier is one process of an agent's version, made for one epoch of a run. It begins at the
beginning of the log, whatever that holds, and replays it. A run that waits long has no process at
all. What a run has beside its log is its directory, where its files are, as its newest process has
made them; and what its steps did to files. Both go some time after the run has ended.

A process that has imported the agent and waits for a run is kept for each version that was used
lately: most of a resume is Python starting and importing.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torpor
from torpor.contextlog import agents, runs
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.contextlog.store import LogStore
from torpor.control.carrier import Journal, Origin
from torpor.control.loading import (
    Loaded,
    Progress,
    hear_loaded,
    host_memory_mib,
    logged,
    source_from,
)
from torpor.control.pool import Spares
from torpor.control.processguest import ProcessGuest
from torpor.control.runfiles import RunFiles, write_below
from torpor.engine.process.agent import Agent, Program
from torpor.image.deps import HOST_PYTHON, check_python, ensure_modules
from torpor.image.publish import Workspace, build_once
from torpor.model.agentfile import AgentSource
from torpor.model.errors import Invalid
from torpor.model.home import Home
from torpor.model.ids import AgentVersion, Epoch, RunId
from torpor.model.runfiles import RunFile
from torpor.policy import freeze
from torpor.policy.admission import machines_max

TYPICAL_MIB = 64
# How long the files of a run that has ended stay: somebody may want to see what it made.
KEPT_S = 3600.0
LOOK_S = 300.0
# One line of the control socket holds no more records than take about this much.
JOURNAL_PART_RECORDS = 10_000


@dataclass(frozen=True)
class _Ready:
    """A process that has imported its agent and has no run yet."""

    guest: ProcessGuest
    directory: Path
    loaded: Loaded

    @property
    def alive(self) -> bool:
        return self.guest.agent.process.returncode is None

    async def discard(self) -> None:
        await self.guest.agent.kill()
        await self.guest.close()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)


class ProcessCarriers:
    """See `torpor.control.carrier.Carriers`. Origins have no snapshots."""

    terms = freeze.PROCESS

    def __init__(self, home: Home, store: LogStore, files: RunFiles) -> None:
        self._home = home
        self._store = store
        self.files = files
        self.room = machines_max(os.cpu_count() or 1, host_memory_mib(), TYPICAL_MIB)
        self._programs: dict[AgentVersion, Program] = {}
        self._spares: Spares[AgentVersion, _Ready] = Spares()
        self._names = itertools.count(1)

    async def tidy(self) -> None:
        """Remove what an earlier server left: its processes ended with it."""
        await asyncio.to_thread(shutil.rmtree, self._home.processes, ignore_errors=True)
        await asyncio.to_thread(_link_package, self._home)

    async def load(self, source: AgentSource, version: AgentVersion, progress: Progress) -> Loaded:
        """Install and import the agent, to see whether it does. The process stays, for the first
        run. Raises Invalid, GuestError, HostError."""
        check_python(source.requires_python, HOST_PYTHON, "this host has")
        self._programs[version] = await asyncio.to_thread(
            _install, self._home, source, version, progress
        )
        progress("load", f"importing {source.entry}", None)
        ready = await self._start(version, source.rules.max_import_s, progress)
        self._spares.put_back(version, ready)
        return ready.loaded

    async def origins(self, row: RunRow) -> list[SnapshotRow | None]:
        return [None]

    async def restore(self, origin: Origin, heard: asyncio.Event) -> ProcessCarrier:
        version = origin.row.version
        spare = await self._spares.take(version, wait=True)
        ready = spare or await self._start_deployed(version)
        files = self._home.files_of(origin.row.id)
        shared = self._home.files_of(origin.row.origin)[1] if origin.row.origin else None
        await asyncio.to_thread(_settle, ready.directory, files, shared)
        ready.guest.heard = heard
        return ProcessCarrier(self, ready.guest, files, version, warm=spare is not None)

    async def renew(self, version: AgentVersion) -> None:
        """Nothing of a process can be lost that the log does not hold."""

    async def tend(self) -> None:
        """End processes that wait for nothing, and remove the directories of runs that ended some
        time ago."""
        while True:
            self._spares.drop_idle()
            await self.sweep(time.time() - KEPT_S)
            await asyncio.sleep(LOOK_S)

    async def sweep(self, before: float) -> None:
        names = [RunId(path.stem) for path in self._home.work.iterdir()]
        for run in await self._store.read(lambda c: runs.ended_before(c, names, before)):
            for path in self._home.files_of(run):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def close(self) -> None:
        await self._spares.close()

    def refill(self, version: AgentVersion) -> None:
        """Have a process wait for the next run of this version."""
        self._spares.refill(version, lambda: self._start_deployed(version))

    async def _start_deployed(self, version: AgentVersion) -> _Ready:
        agent = await self._store.read(lambda c: agents.get_agent(c, version))
        return await self._start(version, agent.rules.max_import_s, lambda *_: None)

    async def _start(self, version: AgentVersion, limit_s: float, progress: Progress) -> _Ready:
        program = self._programs.get(version) or await self._program(version)
        directory = self._home.processes / f"p{os.getpid()}-{next(self._names)}"
        await asyncio.to_thread(directory.mkdir, parents=True)
        guest = ProcessGuest(await Agent.start(program, directory))
        try:
            loaded = await hear_loaded(guest, program.entry, limit_s, progress)
        except BaseException:
            await guest.agent.kill()
            await guest.close()
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return _Ready(guest, directory, loaded)

    async def _program(self, version: AgentVersion) -> Program:
        """Of an agent that was deployed; installed again, should that be needed."""
        agent = await self._store.read(lambda c: agents.get_agent(c, version))
        tar = await self._store.read(lambda c: agents.agent_source(c, version))
        source = source_from(agent, tar)
        program = await asyncio.to_thread(_install, self._home, source, version, logged)
        self._programs[version] = program
        return program


class ProcessCarrier:
    """See `torpor.control.carrier.Carrier`. It cannot be frozen."""

    memory_mib = None
    freezer = None

    def __init__(
        self,
        carriers: ProcessCarriers,
        guest: ProcessGuest,
        files: tuple[Path, Path],
        version: AgentVersion,
        *,
        warm: bool,
    ) -> None:
        self.warm = warm
        self._carriers = carriers
        self._files = files
        self._version = version
        self.guest = guest

    @property
    def pid(self) -> int:
        return self.guest.agent.pid

    def cpu_s(self) -> float:
        return self.guest.agent.cpu_s()

    async def thaw(self, run: RunId, epoch: Epoch, *, started: bool, journal: Journal) -> None:
        """It is new, with its own random numbers and the host's clock."""

    async def start(self, epoch: Epoch, row: RunRow, journal: Journal) -> None:
        work = self._files[0] / "work"

        async def put(file: RunFile, content: Iterator[bytes]) -> None:
            await asyncio.to_thread(write_below, work, file, content)

        await self._carriers.files.lay(row.id, put)
        rest = list(journal)
        while len(rest) > JOURNAL_PART_RECORDS:
            part, rest = rest[:JOURNAL_PART_RECORDS], rest[JOURNAL_PART_RECORDS:]
            self.guest.say_line(_encoded({"t": "journal", "records": part}))
        start = {"t": "start", "run": row.id, "epoch": epoch, "agent": row.agent}
        home, kept = map(str, self._files)
        start |= {"input": row.input, "env": row.env, "home": home, "kept": kept, "journal": rest}
        self.guest.say_line(_encoded(start))

    async def woken(self) -> None:
        self._carriers.refill(self._version)

    async def served(self) -> dict[str, Any] | None:
        return None

    async def damage(self) -> str | None:
        return None

    async def kill(self) -> None:
        await self.guest.agent.kill()

    async def discard(self) -> None:
        ending = asyncio.create_task(self._end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            await ending
            raise

    async def _end(self) -> None:
        await self.guest.agent.kill()
        await self.guest.close()


def _encoded(message: dict[str, Any]) -> bytes:
    # From our own log, checked when it was written.
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode()


def _settle(fresh: Path, files: tuple[Path, Path], shared: Path | None) -> None:
    """The run's directory is the one its newest process began in: what is replayed must not find
    what an earlier process left. What steps did to files is kept apart (`sdk.stepfiles`); a fork
    begins with what those of its origin did, which it shares."""
    directory, kept = files
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(exist_ok=True)
    fresh.rename(directory)
    if shared is not None and shared.exists() and not kept.exists():
        shutil.copytree(shared, kept)


def _link_package(home: Home) -> None:
    """A directory in which agents find torpor, and of what else is installed here nothing."""
    home.package.mkdir(exist_ok=True)
    link = home.package / "torpor"
    package = Path(torpor.__file__).parent
    if not link.is_symlink() or link.readlink() != package:
        link.unlink(missing_ok=True)
        link.symlink_to(package)


def _install(home: Home, source: AgentSource, version: AgentVersion, progress: Progress) -> Program:
    """The agent's files and modules on this host. Blocks."""

    def unpack(workspace: Workspace) -> Path:
        app = workspace.directory / "app"
        for name, body in source.files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts:
                raise Invalid(f"the agent's files hold {name!r}, which leads elsewhere")
            (app / path).parent.mkdir(parents=True, exist_ok=True)
            (app / path).write_bytes(body)
        return app

    return Program(
        app=build_once(home.apps / version, unpack),
        entry=source.entry,
        env=dict(source.env),
        deps=ensure_modules(home, source.dependencies, progress),
        package=home.package,
    )
