"""Plain processes as carriers: the `process` engine, which is replay alone and isolates nothing.

A carrier is one process of an agent's version, made for one epoch of a run. It begins at the
beginning of the log, whatever that holds, and replays it. A run that waits long has no process at
all. What a run has beside its log is its directory, where its files are, as its newest process has
made them; and what its steps did to files. Both go some time after the run has ended.

An agent is imported in its run's own directory, which has a copy of its project: what it makes of
`__file__` is what it finds in its working directory, is its run's alone, and has the same name in
each of the run's processes, so that a replay asks for what the log holds. So no process can have
imported it before the run is known. One that has imported what is not the agent's own waits for the
next run (`torpor.worker.spares`): most of a start is Python's own and dependencies'.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Collection, Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import torpor
from torpor.contextlog import agents, deletion, reloads
from torpor.contextlog.runs import RunRow
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.agentfile import AgentSource
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.egress import parse_egress
from torpor.core.errors import Conflict, Invalid
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Epoch, RunId, SnapshotId
from torpor.core.layout import installed
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.presets import environment
from torpor.core.runfiles import RunFile
from torpor.engine.process.agent import Interpreter, Program, Reach, surroundings
from torpor.engine.process.workdir import clear
from torpor.engine.resident import resident_mib
from torpor.guest import trust
from torpor.image.deps import HOST_PYTHON, check_python, ensure_modules
from torpor.image.publish import Workspace, build_once
from torpor.logstore.protocol import Store
from torpor.policy import freeze
from torpor.wire import messages, names
from torpor.worker.authorities import Authorities
from torpor.worker.carrier import Journal, Origin
from torpor.worker.loading import (
    Importing,
    Loaded,
    Progress,
    hear_loaded,
    loaded,
    logged,
    source_from,
)
from torpor.worker.runfiles import RunFiles, write_below
from torpor.worker.spares import WORK, Copies, Processes, Waiting, ahead_of, write_files

# What a process is counted for at least: nothing limits it, and it has only begun.
PROCESS_MIB = 64
# One line of the control socket holds no more records than take about this much.
JOURNAL_PART_RECORDS = 10_000


@dataclass(frozen=True)
class Beside:
    """Where an agent is, and what is around it, for what runs beside it."""

    directory: Path
    environment: dict[str, str]


class ProcessCarriers:
    """See `torpor.worker.carrier.Carriers`. Origins have no snapshots."""

    def __init__(
        self,
        home: Home,
        store: Store,
        files: RunFiles,
        authorities: Authorities,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
        terms: freeze.Terms = freeze.PROCESS,
    ) -> None:
        self.clock, self.terms = clock, terms
        self._limits = limits
        self._home = home
        self._store = store
        self._authorities = authorities
        self.files = files
        self._programs: dict[AgentVersion, Program] = {}
        self._processes = Processes(home, clock, limits)
        self._copies = Copies(self._processes)
        self._clearing: set[asyncio.Future[None]] = set()

    async def tidy(self) -> None:
        """Remove what an earlier server left: its processes ended with it."""
        await asyncio.to_thread(shutil.rmtree, self._home.processes, ignore_errors=True)
        await asyncio.to_thread(_link_package, self._home)
        self._home.compiled.mkdir(exist_ok=True)

    async def load(self, source: AgentSource, version: AgentVersion, progress: Progress) -> Loaded:
        """Install and import the agent, to see whether it does. Raises Invalid, GuestError,
        HostError."""
        check_python(source.requires_python, HOST_PYTHON, "this host has")
        program = await self._install(source, version, progress)
        progress("load", f"importing {source.entry}", None)
        importing = Importing(program.entry, source.rules.max_import_s, progress, self.clock)
        directory = await self._copies.take(program.app)
        waiting, _ = await self._processes.take(program.interpreter)
        self.refill(program)  # while this one imports: a run often follows at once
        try:
            files = directory, directory / "steps"
            waiting.guest.say_line(_load(program, files, self._home.compiled))
            defined = await hear_loaded(waiting.guest, importing)
        finally:
            await waiting.discard()
            self._throw_away(directory)
        self._processes.refill(program.interpreter, 2)  # and then the next version
        return defined

    def need_mib(self, memory_mib: int) -> int:
        return PROCESS_MIB

    async def origins(self, row: RunRow) -> list[SnapshotRow | None]:
        return [None]

    async def restore(self, origin: Origin, changed: asyncio.Event) -> ProcessCarrier:
        version, row = origin.row.version, origin.row
        reloaded = bool(row.origin) and await self._store.read(lambda c: reloads.is_reload(c, row))
        program = self._programs.get(version) or await self._program(version)
        files = self._home.files_of(origin.row.id)
        shared = self._home.files_of(origin.row.origin)[1] if origin.row.origin else None
        agent = await self._store.read(lambda c: agents.get_agent(c, version))
        waiting, warm = await self._processes.take(program.interpreter)
        try:
            fresh, old = await self._copies.take(program.app), self._processes.new_directory()
            await asyncio.to_thread(_settle, fresh, old, files, shared)
            self._throw_away(old)
        except BaseException:
            await waiting.discard()
            raise
        guest = waiting.guest
        guest.arrived = changed
        guest.say_line(_load(program, files, self._home.compiled))
        limit_s = agent.rules.max_import_s
        importing = loaded(guest, Importing(program.entry, limit_s, lambda *_: None, self.clock))
        carried = (waiting, files, program, importing)
        return ProcessCarrier(self, *carried, warm=warm, reloaded=reloaded)

    def _throw_away(self, directory: Path) -> None:
        clearing = asyncio.ensure_future(asyncio.to_thread(clear, directory))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)

    async def beside(self, row: RunRow) -> Beside:
        """Where a command runs beside the run's agent. Raises Conflict."""
        program = self._programs.get(row.version) or await self._program(row.version)
        home, _ = self._home.files_of(row.id)
        directory = home / WORK
        if not directory.is_dir():
            raise Conflict(
                f"{row.id} has no directory on this host", hint="It gets one when it goes on here."
            )
        environment = surroundings(program.interpreter) | {"HOME": str(home)}
        if (deps := program.interpreter.deps) is not None:  # as `torpor.sdk.process` does
            environment["PYTHONPATH"] += f"{os.pathsep}{deps}"
        return Beside(directory, installed(directory, environment) | row.env)

    async def renew(self, version: AgentVersion, useless: Collection[SnapshotId]) -> None:
        """Nothing of a process can be lost that the log does not hold."""

    async def tend(self) -> None:
        """End processes that wait for nothing, and remove the directories of runs that ended some
        time ago."""
        while True:
            self._processes.drop_idle()
            self._copies.drop_idle()
            now = self.clock.now()
            await self.sweep(now - self._limits.directory_kept_s)
            before = now - self._limits.compiled_kept_s
            await asyncio.to_thread(_sweep_compiled, self._home.compiled, before)
            await self.clock.sleep(self._limits.sweep_s)

    async def sweep(self, before: float) -> None:
        names = [RunId(path.stem) for path in self._home.work.iterdir()]
        for run in await self._store.read(lambda c: deletion.ended_before(c, names, before)):
            for path in self._home.files_of(run):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)

    async def close(self) -> None:
        await self._processes.close()
        await self._copies.close()
        await asyncio.gather(*self._clearing, return_exceptions=True)

    def refill(self, program: Program) -> None:
        """Have a process and a copy of its files wait for the next run of this agent."""
        self._processes.refill(program.interpreter)
        self._copies.refill(program.app)

    async def _program(self, version: AgentVersion) -> Program:
        """Of an agent that was deployed; installed again, should that be needed."""
        agent = await self._store.read(lambda c: agents.get_agent(c, version))
        tar = await self._store.read(lambda c: agents.agent_source(c, version))
        source = source_from(agent, tar)
        return await self._install(source, version, logged)

    async def _install(
        self, source: AgentSource, version: AgentVersion, progress: Progress
    ) -> Program:
        """Raises Invalid, HostError."""
        program = await asyncio.to_thread(_install, self._home, source, version, progress)
        if rules := parse_egress(list(source.egress), source.entry):
            authority = await self._authorities.current()
            directory = self._home.trust / authority.fingerprint
            await asyncio.to_thread(trust.write, authority.certificate, directory)
            reach = Reach(
                rules=rules,
                placeholders=tuple(sorted(environment(list(source.egress)).items())),
                env=program.interpreter.env,
                authority=authority.certificate,
                trust=directory,
            )
            leaves = await asyncio.to_thread(authority.leaves, rules)
            program = replace(
                program,
                interpreter=replace(program.interpreter, reach=reach),
                leaves=tuple(leaf.to_json() for leaf in leaves),
            )
        self._programs[version] = program
        return program


class ProcessCarrier:
    """See `torpor.worker.carrier.Carrier`. It cannot be frozen."""

    memory_mib = None
    freezer = None

    def __init__(
        self,
        carriers: ProcessCarriers,
        waiting: Waiting,
        files: tuple[Path, Path],
        program: Program,
        importing: Coroutine[Any, Any, dict[str, Any]],
        *,
        warm: bool,
        reloaded: bool,
    ) -> None:
        self.warm = warm
        self._reloaded = reloaded
        self._carriers = carriers
        self._files = files
        self._program = program
        self._importing = asyncio.ensure_future(importing)
        self._process = waiting
        self.guest = waiting.guest

    @property
    def pid(self) -> int:
        return self.guest.agent.pid

    @property
    def taken_mib(self) -> int:
        return max(PROCESS_MIB, resident_mib(self.pid))

    def cpu_s(self) -> float:
        return self.guest.agent.cpu_s()

    async def thaw(self, run: RunId, epoch: Epoch, *, started: bool, journal: Journal) -> None:
        """It is new, with its own random numbers and the host's clock; only its agent has to be
        imported. Raises GuestError."""
        await self._importing

    async def start(self, epoch: Epoch, row: RunRow, journal: Journal) -> None:
        work = self._files[0] / WORK

        async def put(file: RunFile, content: Iterator[bytes]) -> None:
            await asyncio.to_thread(write_below, work, file, content)

        await self._carriers.files.lay(row.id, put)
        rest = list(journal)
        while len(rest) > JOURNAL_PART_RECORDS:
            part, rest = rest[:JOURNAL_PART_RECORDS], rest[JOURNAL_PART_RECORDS:]
            self.guest.say_line(messages.encode_own(names.JOURNAL, records=part))
        start = {"run": row.id, "epoch": epoch, "agent": row.agent, "input": row.input}
        start |= {"env": row.env, "journal": rest, "reloaded": self._reloaded}
        self.guest.say_line(messages.encode_own(names.START, **start))

    async def woken(self) -> None:
        self._carriers.refill(self._program)

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
        self._importing.cancel()
        await asyncio.gather(self._importing, return_exceptions=True)
        await self._process.discard()


def _load(program: Program, files: tuple[Path, Path], compiled: Path) -> bytes:
    home, kept = map(str, files)
    fields: dict[str, Any] = {"entry": program.entry, "home": home, "app": str(files[0] / WORK)}
    fields |= {"kept": kept, "compiled": str(compiled)}
    if (reach := program.interpreter.reach) is not None:
        fields |= {**reach.fields, "leaves": list(program.leaves)}
    return messages.encode_own(names.LOAD, **fields)


def _sweep_compiled(directory: Path, before: float) -> None:
    """What is still of use is compiled again."""
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < before:
                path.unlink()


def _settle(fresh: Path, old: Path, files: tuple[Path, Path], shared: Path | None) -> None:
    """The run's directory is another for each of its processes, what it was is at `old` then: what
    is replayed must not find what an earlier process left. What steps did to files is kept apart
    (`sdk.stepfiles`); a fork begins with what those of its origin did, which it shares."""
    directory, kept = files
    try:
        directory.rename(old)
    except FileNotFoundError:
        directory.parent.mkdir(exist_ok=True)
    except PermissionError:  # its run has forbidden to write to it
        clear(directory)
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

    for name in source.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise Invalid(f"the agent's files contain {name!r}, which leads outside them")

    def unpack(workspace: Workspace) -> Path:
        app = workspace.directory / "app"
        write_files(app, source.files.items(), source.executable)
        return app

    def damage(app: Path) -> str:
        """The log has the files: these need not be durable, if they are looked at."""
        for name, body in source.files.items():
            try:
                if (app / name).read_bytes() != body:
                    return f"{name} is another"
            except OSError as error:
                return f"{name}: {error.strerror}"
        return ""

    return Program(
        app=build_once(home.apps / version, unpack, damage=damage, durable=False),
        entry=source.entry,
        interpreter=Interpreter(
            package=home.package,
            deps=ensure_modules(home, source.dependencies, progress),
            env=tuple(sorted(source.env.items())),
            ahead=ahead_of(source),
        ),
    )
