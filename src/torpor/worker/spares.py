"""Plain processes that wait until they are given an agent, and copies of its files.

Each has imported the SDK. If it is for an agent that imports other things before it does anything
else (`torpor.core.imports`), it has imported those, too: all that an agent does not have of its
own, in most cases. So one serves all agents that begin alike, as the versions do that `torpor dev`
makes while a file is edited. What cannot be imported ahead (`torpor.sdk.ahead`), or prints while it
is, is left to the agent.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from torpor.core.agentfile import AgentSource
from torpor.core.clock import Clock
from torpor.core.errors import GuestError
from torpor.core.home import Home
from torpor.core.imports import leading_imports
from torpor.core.limits import ServerLimits
from torpor.engine.process.agent import Agent, Ahead, Interpreter, Reach
from torpor.engine.process.workdir import clear, lay_out
from torpor.machines.pool import Spares
from torpor.wire import messages, names
from torpor.worker.bases import outline
from torpor.worker.loading import Importing
from torpor.worker.processguest import ProcessGuest

log = logging.getLogger(__name__)

# Of a process's home, the directory with its agent's files.
WORK = "work"
# For two agents of two processes each.
_MOST = 4
# Of what agents import first, that which the SDK has imported anyway.
OF_SDK = frozenset(
    {
        *("asyncio", "collections", "contextlib", "dataclasses", "datetime", "enum", "functools"),
        *("hashlib", "itertools", "json", "logging", "math", "os", "pathlib", "random", "re"),
        *("shutil", "socket", "sys", "tempfile", "threading", "time", "torpor", "traceback"),
        *("typing", "uuid"),
    }
)


@dataclass(frozen=True)
class Waiting:
    """A process that does not know yet what to load."""

    guest: ProcessGuest
    directory: Path | None = None  # of what it has imported ahead

    @property
    def alive(self) -> bool:
        return self.guest.agent.process.returncode is None

    async def discard(self) -> None:
        await self.guest.agent.kill()
        await self.guest.close()
        if self.directory is not None:
            await asyncio.to_thread(clear, self.directory)


@dataclass(frozen=True)
class _Copy:
    """Of an agent's files, for its next run."""

    directory: Path
    alive = True

    async def discard(self) -> None:
        await asyncio.to_thread(clear, self.directory)


class Copies:
    """Copies of agents' files, made before they are needed: a project may have thousands."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._spares: Spares[Path, _Copy] = Spares(_MOST)

    async def take(self, app: Path) -> Path:
        """A directory with a copy of `app` in it, at `WORK`. Raises OSError."""
        return (await self._spares.take(app, wait=True) or await self._make(app)).directory

    def refill(self, app: Path) -> None:
        self._spares.refill(app, lambda: self._make(app))

    async def _make(self, app: Path) -> _Copy:
        copy = _Copy(self._processes.new_directory())
        try:
            await asyncio.to_thread(lay_out, app, copy.directory / WORK)
        except BaseException:
            await copy.discard()
            raise
        return copy

    def drop_idle(self) -> None:
        self._spares.drop_idle()

    async def close(self) -> None:
        await self._spares.close()


class Processes:
    def __init__(self, home: Home, clock: Clock, limits: ServerLimits) -> None:
        self._home, self._clock, self._limits = home, clock, limits
        # A second one of a kind is there after a deployment, which takes one as the first run does.
        self._spares: Spares[tuple[Interpreter, int], Waiting] = Spares(_MOST)
        # What they import ahead was seen to be fit for it, or not to be.
        self._fit: set[Interpreter] = set()
        self._unfit: set[Interpreter] = set()
        self._names = itertools.count(1)

    def new_directory(self) -> Path:
        """A name that was not used before on this host, and that nothing else has in it."""
        return self._home.processes / f"p{os.getpid()}-{next(self._names)}-{secrets.token_hex(4)}"

    async def take(self, interpreter: Interpreter) -> tuple[Waiting, bool]:
        """A process, and whether it was there. Raises HostError."""
        for kind in dict.fromkeys((interpreter, replace(interpreter, ahead=None))):
            for wait in (False, True):
                for place in range(2):
                    if spare := await self._spares.take((kind, place), wait=wait):
                        return spare, True
        return await self._start(interpreter), False

    def refill(self, interpreter: Interpreter, count: int = 1) -> None:
        """Have so many wait."""
        if interpreter in self._unfit:
            interpreter = replace(interpreter, ahead=None)
        for place in range(count):
            self._spares.refill((interpreter, place), lambda: self._make(interpreter))

    def drop_idle(self) -> None:
        self._spares.drop_idle()

    async def close(self) -> None:
        await self._spares.close()

    async def _start(self, interpreter: Interpreter) -> Waiting:
        return Waiting(ProcessGuest(await Agent.start(interpreter)))

    async def _make(self, interpreter: Interpreter) -> Waiting:
        """Raises HostError, GuestError (it is not fit)."""
        waiting = await self._start(interpreter)
        if interpreter.ahead is None:
            return waiting
        waiting = replace(waiting, directory=self.new_directory())
        try:
            known = interpreter in self._fit
            await self._import(waiting, interpreter.ahead, interpreter.reach, known=known)
        except BaseException as error:
            if isinstance(error, GuestError):
                log.info("nothing is imported ahead: %s", error.message)
                self._unfit.add(interpreter)
            await waiting.discard()
            raise
        self._fit.add(interpreter)
        return waiting

    async def _import(
        self, waiting: Waiting, ahead: Ahead, reach: Reach | None, *, known: bool
    ) -> None:
        """Raises GuestError."""
        guest, directory = waiting.guest, waiting.directory
        assert directory is not None
        app = directory / WORK
        await asyncio.to_thread(write_files, app, ahead.files)
        modules = [{"module": each.module, "names": list(each.names)} for each in ahead.modules]
        where = {"home": str(directory), "app": str(app)}
        request = {"entry": ahead.entry, "modules": modules, "known": known}
        request |= reach.fields if reach is not None else {}
        guest.say_line(messages.encode_own(names.IMPORT, **request, **where))
        importing = Importing(ahead.entry, self._limits.ahead_s, lambda *_: None, self._clock)
        reply = await importing.hear(guest, names.IMPORTED)
        if reply["t"] != names.IMPORTED or len(reply) > 1:
            raise GuestError(" ".join(map(str, reply.values())))
        if guest.inbox:  # the first that the agent prints
            raise GuestError("it prints")


def ahead_of(source: AgentSource) -> Ahead | None:
    """What a process of this agent can have imported before it is one."""
    if sys.platform != "linux":  # `torpor.sdk.ahead` could not see what it does
        return None
    modules = leading_imports(source.files, source.entry)
    if all(each.module in OF_SDK for each in modules):
        return None
    return Ahead(source.entry, tuple(sorted(outline(source).files.items())), tuple(modules))


def write_files(
    directory: Path, files: Iterable[tuple[str, bytes]], executable: Container[str] = ()
) -> None:
    """There may be thousands."""
    present: set[str] = set()
    for name, body in files:
        path = os.path.join(directory, name)  # noqa: PTH118
        parent = os.path.dirname(path)  # noqa: PTH120
        if parent not in present:
            os.makedirs(parent, exist_ok=True)  # noqa: PTH103
            present.add(parent)
        with open(path, "wb", buffering=0) as file:  # noqa: PTH123
            left = memoryview(body)
            while left:
                left = left[file.write(left) :]
            os.fchmod(file.fileno(), 0o755 if name in executable else 0o644)
