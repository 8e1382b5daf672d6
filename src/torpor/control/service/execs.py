"""Commands that people run beside the agent of a run (`torpor exec`).

In a machine the run's driver begins them (`torpor.worker.commands.OfRun`); a run that sleeps gets
its machine back for that, and its agent goes on waiting in it. Where there is no machine, they are
processes of this host, in the directory of the run, which is there while it sleeps, too.

One task minds each: it looks at the run whenever its log grows, wakes it, begins the command, ends
it with what it was beside, and has its end recorded.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from sqlalchemy import Connection

from torpor.contextlog import entries, runs
from torpor.contextlog.entries import NewEntry
from torpor.contextlog.runs import RunRow
from torpor.control.scheduler.scheduler import Scheduler
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Conflict, HostError, InternalError, Invalid, TorporError
from torpor.core.execs import CommandRequest
from torpor.core.ids import RunId
from torpor.core.states import FINAL, RunState
from torpor.engine import registry
from torpor.engine.process.command import LocalCommand, NotStarted
from torpor.logstore.protocol import Store
from torpor.worker.commands import WINDOW_BYTES, Command, Commands, Ended
from torpor.worker.onprocesses import ProcessCarriers
from torpor.worker.tasks import Tasks

log = logging.getLogger(__name__)


def _stopping() -> HostError:
    return HostError("the server is stopping", hint="Try again in a moment.")


class Engines(Protocol):
    """What this needs of `torpor.control.engines.Engines`."""

    @property
    def scheduler(self) -> Scheduler | None: ...

    async def processes(self, engine: str) -> ProcessCarriers: ...

    def ready_soon(self, engine: str) -> None: ...


class Execs:
    """See `torpor.service.execs.Execs`."""

    def __init__(
        self,
        store: Store,
        engines: Engines,
        commands: Commands,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._store, self._engines, self._commands = store, engines, commands
        self._minding = Tasks(lambda error: log.error("a command was lost", exc_info=error))
        self._leaving = False

    async def start(self, ref: str, command: CommandRequest, who: str) -> Command:
        command.check()
        row = await self._store.read(lambda c: runs.get_run(c, ref))
        _refuse(row, command)
        if self._leaving:
            raise _stopping()
        started = Command(row.id, command, who, self._clock)
        self._commands.add(started)
        self._minding.spawn(self._mind(started))
        self._engines.ready_soon(row.engine)
        return started

    async def get(self, ref: str, id: str) -> Command:
        row = await self._store.read(lambda c: runs.get_run(c, ref))
        return self._commands.get(row.id, id)

    def leave(self) -> None:
        """The server stops: none is begun any more, and all end."""
        self._leaving = True
        self._commands.cut_off_all(_stopping())

    async def stop(self) -> None:
        self.leave()
        await self._minding.finish()

    async def _mind(self, command: Command) -> None:
        over = asyncio.create_task(command.over.wait())
        try:
            with self._store.subscribe(command.run) as subscription:
                while command.end is None:
                    row = await self._store.read(lambda c: runs.get_run(c, command.run))
                    await self._look(command, row)
                    changed = asyncio.create_task(subscription.wait())
                    await asyncio.wait({over, changed}, return_when=asyncio.FIRST_COMPLETED)
                    changed.cancel()
        except TorporError as error:
            command.cut_off(error)
        except Exception:
            log.exception("a command beside %s was lost", command.run)
            command.cut_off(InternalError("the server failed to run this command"))
        finally:
            over.cancel()
            self._commands.remove(command)
        if command.begun:
            await self._record(command.run, command.ending())

    async def _look(self, command: Command, row: RunRow) -> None:
        """Do what is to be done about a command whose run is so now."""
        here = not registry.isolates(row.engine)
        asleep = row.state is RunState.SUSPENDED and not row.ready
        if row.state in FINAL:
            command.cut_off(
                Conflict(f"{row.id} has ended ({row.state.value}), and the command with it")
            )
        elif row.cancel_requested:
            command.cut_off(Conflict(f"{row.id} is being cancelled"))
        elif here and command.begun and command.epoch != row.epoch:
            why = "goes on in a new process, and its directory was made anew"
            command.cut_off(Conflict(f"{row.id} {why}", hint=("Start the command again.")))
        elif here and not command.begun and (asleep or self._carried(row.id)):
            await self._begin_here(command, row)
        elif not here and not command.begun and asleep:
            await self._store.write(lambda c: runs.wake(c, row.id))

    def _carried(self, run: RunId) -> bool:
        drivers = self._engines.scheduler.drivers if self._engines.scheduler else {}
        return run in drivers and drivers[run].live is not None and drivers[run].doing != "starting"

    async def _begin_here(self, command: Command, row: RunRow) -> None:
        where = await (await self._engines.processes(row.engine)).beside(row)
        environment = {**where.environment, **command.request.env}
        await self._record(row.id, command.beginning())
        if command.request.size is not None:
            environment.setdefault("TERM", "xterm-256color")
        side = Here(command)
        try:
            hand = await LocalCommand.start(
                command.request, environment, where.directory, side, WINDOW_BYTES
            )
        except NotStarted as error:
            command.begin(_Nothing(), row.epoch)
            command.ended(Ended(code=error.code, problem=error.why))
            return
        command.begin(hand, row.epoch)
        if command.end is not None:  # given up meanwhile
            hand.kill()

    async def _record(self, run: RunId, entry: NewEntry) -> None:
        """Where the run has not ended: its end is the last of its log."""

        def write(c: Connection) -> None:
            if runs.get_run(c, run).state not in FINAL:
                entries.append(c, run, None, [entry], self._clock.now())

        await self._store.write(write)


def _refuse(row: RunRow, command: CommandRequest) -> None:
    """Raises Conflict, Invalid."""
    if row.state in FINAL:
        raise Conflict(
            f"{row.id} has ended ({row.state.value}), so it has no machine",
            hint="Fork it from a point where it was at work or waiting, and look around in the "
            f"fork: torpor fork {row.id} --at SEQ. torpor logs {row.id} lists the points.",
        )
    if row.state is RunState.QUEUED:
        raise Conflict(
            f"{row.id} has not started: it waits for its turn",
            hint=f"torpor show {row.id} says what it waits for.",
        )
    if command.root and not registry.isolates(row.engine):
        raise Invalid(
            "without a machine, commands can only run as the server's user",
            hint="Leave --user out.",
        )


class Here:
    """See `torpor.guest.pumping.Side`."""

    def __init__(self, command: Command) -> None:
        self._command = command

    def wrote(self, stream: int, data: bytes) -> None:
        self._command.wrote(stream, data)

    def taken(self, size: int) -> None:
        self._command.taken(size)

    def ended(self, code: int) -> None:
        self._command.ended(Ended(code=code) if code >= 0 else Ended(signal=-code))


class _Nothing:
    """The `Hand` of what could not begin."""

    def feed(self, data: bytes, *, last: bool) -> None: ...

    def window(self, size: int) -> None: ...

    def resize(self, rows: int, cols: int) -> None: ...

    def signal(self, name: str) -> None: ...

    def kill(self) -> None: ...
