"""Commands beside an agent, on this side: from their request to their end.

A `Command` is between two: its requester, a client of the API, and whatever has the process, its
`Hand`: a machine's guest (`OnMachine`) or this host (`engine.process.command`). It keeps no more
than a window of what either is slow to take. Whatever happens to either, a command ends, once, and
its requester learns how.

`Commands` knows all that there are. Of those of a run, its driver begins those that wait for its
machine, and does not freeze it as long as there are any (`OfRun`).
"""

from __future__ import annotations

import asyncio
import contextlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torpor.contextlog.entries import NewEntry
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Exhausted, GuestError, NotFound, TorporError
from torpor.core.execs import CommandRequest, Size
from torpor.core.ids import RunId, new_id
from torpor.machines.channel import Channel
from torpor.machines.guest import Guest
from torpor.wire import names
from torpor.worker.pen import Pen

BEGIN, END = "exec.begin", "exec.end"
WINDOW_BYTES = 256 * 1024
_PIECE_BYTES = 32 * 1024
RUN_MAX, HOST_MAX = 16, 100
# Of a command in the log, so that its entry is never too large: arguments, and of each.
SHOWN_MAX, SHOWN_CHARS_MAX = 64, 1000


@dataclass(frozen=True)
class Data:
    """What a command wrote, to stdout (1) or stderr (2)."""

    stream: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """A code, or the signal that ended it; of one that could not begin, why not."""

    code: int | None = None
    signal: int | None = None
    problem: str = ""


class Hand(Protocol):
    """What has the process."""

    def feed(self, data: bytes, *, last: bool) -> None:
        """Have it read this; `Command.taken` is called as it is taken in."""

    def window(self, size: int) -> None:
        """So much more of what it writes may be put."""

    def resize(self, rows: int, cols: int) -> None: ...

    def signal(self, name: str) -> None: ...

    def kill(self) -> None:
        """At once, with all that it has started. Nothing of it needs to be reported any more."""


class Command:
    def __init__(
        self, run: RunId, request: CommandRequest, who: str, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._clock = clock
        self.id = new_id("exec")
        self.run, self.request, self.who = run, request, who
        self.epoch: int | None = None  # the run's when it began
        self.end: Ended | TorporError | None = None
        self.hand: Hand | None = None
        self._written: deque[Data] = deque()
        self._granted = 0  # of what was handed out, not yet allowed anew
        self._fed = 0  # bytes that the process has not taken in yet
        self._unread = 0  # bytes that were written and not handed out
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self.over = asyncio.Event()

    # For its requester.

    async def changes(self, within_s: float) -> list[Data]:
        """What it wrote since, at most a window. Nothing, if there was nothing for so long, or for
        once when it begins; and once it has ended."""
        if not self._written and self.end is None:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(within_s):
                    await self._news.wait()
        written, self._written, self._unread = list(self._written), deque(), 0
        return written

    def took(self, size: int) -> None:
        """The requester has so many bytes of it: as many more may come."""
        self._granted += size
        if self.hand is not None and self.end is None and self._granted >= _PIECE_BYTES:
            self.hand.window(self._granted)
            self._granted = 0

    async def feed(self, data: bytes, *, last: bool = False) -> None:
        """What it is to read. Returns when there is room for more, or it has ended."""
        for at in range(0, len(data) or 1, _PIECE_BYTES):
            while self.end is None and (self.hand is None or self._fed >= WINDOW_BYTES):
                self._room.clear()
                await self._room.wait()
            if self.end is not None or self.hand is None:
                return
            piece = data[at : at + _PIECE_BYTES]
            self._fed += len(piece)
            self.hand.feed(piece, last=last and at + _PIECE_BYTES >= len(data))

    def resize(self, size: Size) -> None:
        if self.hand is not None and self.end is None:
            self.hand.resize(*size)

    def signal(self, name: str) -> None:
        if self.hand is not None and self.end is None:
            self.hand.signal(name)

    def cut_off(self, why: TorporError) -> None:
        """It ends now, for this."""
        if self.end is None:
            if self.hand is not None:
                self.hand.kill()
            self.ended(why)

    # For what has the process.

    @property
    def begun(self) -> bool:
        return self.hand is not None

    def begin(self, hand: Hand, epoch: int) -> None:
        self.hand, self.epoch = hand, epoch
        self._tell()

    def wrote(self, stream: int, data: bytes) -> None:
        if self.end is None:
            self._unread += len(data)
            if self._unread > 2 * WINDOW_BYTES:
                raise GuestError("a command sent more output than was requested")
            self._written.append(Data(stream, data))
            self._news.set()

    def taken(self, size: int) -> None:
        self._fed -= size
        self._room.set()

    def ended(self, end: Ended | TorporError) -> None:
        if self.end is None:
            self.end = end
            self.over.set()
            self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._room.set()

    # For the log: what it was, not what it wrote.

    def beginning(self) -> NewEntry:
        request = self.request
        shown = [_clipped(text) for text in request.command[:SHOWN_MAX]]
        data: dict[str, Any] = {"exec": self.id, "command": shown, "by": self.who}
        data |= {"dir": request.dir} if request.dir is not None else {}
        data |= {"env": sorted(request.env)} if request.env else {}
        data |= {"root": True} if request.root else {}
        data |= {"terminal": True} if request.size is not None else {}
        return NewEntry(BEGIN, None, data)

    def ending(self) -> NewEntry:
        data: dict[str, Any] = {"exec": self.id}
        match self.end:
            case Ended(code, signal, problem):
                known = {"code": code, "signal": signal, "problem": problem or None}
                data |= {key: value for key, value in known.items() if value is not None}
            case TorporError() as error:
                data["problem"] = error.message
        return NewEntry(END, None, data)


def _clipped(text: str) -> str:
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[:SHOWN_CHARS_MAX]}…"


class Commands:
    """All there are on this host."""

    def __init__(self) -> None:
        self._of: dict[RunId, dict[str, Command]] = {}
        self._drivers: dict[RunId, asyncio.Event] = {}  # set when a run's commands have changed

    def add(self, command: Command) -> None:
        """Raises Exhausted."""
        known = self._of.get(command.run, {})
        if len(known) >= RUN_MAX or sum(map(len, self._of.values())) >= HOST_MAX:
            raise Exhausted(
                f"at most {RUN_MAX} commands run beside an agent at a time, and "
                f"{HOST_MAX} on a host",
                hint="End one of them first.",
            )
        self._of.setdefault(command.run, {})[command.id] = command
        self._tell(command.run)

    def remove(self, command: Command) -> None:
        known = self._of[command.run]
        del known[command.id]
        if not known:
            del self._of[command.run]
        self._tell(command.run)

    def get(self, run: RunId, id: str) -> Command:
        """One that has not ended. Raises NotFound."""
        command = self._of.get(run, {}).get(id)
        if command is None or command.end is not None:
            raise NotFound(f"{run} has no command {id!r}: it has ended, or never existed")
        return command

    def of(self, run: RunId) -> list[Command]:
        """Those that have not ended."""
        return [each for each in self._of.get(run, {}).values() if each.end is None]

    def cut_off_all(self, why: TorporError) -> None:
        for run in list(self._of):
            for command in self.of(run):
                command.cut_off(why)

    def listen(self, run: RunId, changed: asyncio.Event) -> None:
        self._drivers[run] = changed

    def forget(self, run: RunId, changed: asyncio.Event) -> None:
        if self._drivers.get(run) is changed:
            del self._drivers[run]

    def _tell(self, run: RunId) -> None:
        if run in self._drivers:
            self._drivers[run].set()


class OfRun:
    """Those of a driver's run."""

    def __init__(self, all: Commands, run: RunId, changed: asyncio.Event) -> None:
        self._all, self._run, self._changed = all, run, changed
        all.listen(run, changed)

    @property
    def any(self) -> bool:
        """Whether the run's machine has to stay for one."""
        return bool(self._all.of(self._run))

    async def begin(self, guest: Channel, pen: Pen) -> None:
        """Those that wait for the machine begin in it. Only of machines: others do not need it."""
        for command in self._all.of(self._run):
            if command.begun or not isinstance(guest, Guest):
                continue
            await pen.write(command.beginning())
            if command.end is None:  # it may have been given up meanwhile
                hand = OnMachine(guest, command.id)
                hand.start(command.request)
                command.begin(hand, pen.epoch)

    def receive(self, message: Mapping[str, Any]) -> None:
        """Raises GuestError."""
        try:
            command = self._all.get(self._run, message["exec"])
        except NotFound:  # its end has crossed this
            return
        match message["t"]:
            case names.EXEC_OUTPUT:
                command.wrote(message["stream"], _decoded(message["data"]))
            case names.EXEC_TAKEN:
                command.taken(message["bytes"])
            case names.EXEC_EXITED:
                known = {
                    key: message[key] for key in ("code", "signal", "problem") if key in message
                }
                command.ended(Ended(**known))

    def leave(self, why: str) -> None:
        """The machine is gone: whatever ran in it has ended."""
        self._all.forget(self._run, self._changed)
        for command in self._all.of(self._run):
            if isinstance(command.hand, OnMachine):
                lost = f"the machine of {self._run} is gone"
                command.ended(GuestError(f"{lost}: {why}" if why else lost))


class OnMachine:
    """See `Hand`: a guest's `torpor.guest.commands`."""

    def __init__(self, guest: Channel, exec: str) -> None:
        self._guest, self._exec = guest, exec

    def start(self, request: CommandRequest) -> None:
        more: dict[str, Any] = {} if request.dir is None else {"dir": request.dir}
        if request.size is not None:
            more["size"] = request.size._asdict()
        self._say(
            names.EXEC,
            command=list(request.command),
            env=dict(request.env),
            root=request.root,
            stdin=request.stdin,
            window=WINDOW_BYTES,
            **more,
        )

    def feed(self, data: bytes, *, last: bool) -> None:
        self._say(names.EXEC_STDIN, data=b2a_base64(data, newline=False).decode(), last=last)

    def window(self, size: int) -> None:
        self._say(names.EXEC_WINDOW, bytes=size)

    def resize(self, rows: int, cols: int) -> None:
        self._say(names.EXEC_SIZE, rows=rows, cols=cols)

    def signal(self, name: str) -> None:
        self._say(names.EXEC_SIGNAL, signal=name)

    def kill(self) -> None:
        self._say(names.EXEC_KILL)

    def _say(self, t: str, **fields: Any) -> None:
        if self._guest.broken is None:
            self._guest.say(t, exec=self._exec, **fields)


def _decoded(text: str) -> bytes:
    try:
        return a2b_base64(text, strict_mode=True)
    except Base64Error as error:
        raise GuestError(f"a command's output is not base64: {error}") from error
