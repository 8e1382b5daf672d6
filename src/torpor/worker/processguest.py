"""The conversation with an agent that is a plain process: JSON lines on its control socket, among
them lines that are frames of streams, and what it writes to stdout and stderr, with marks in it.

All is done in callbacks of the event loop, without a task in between: a step's result is one
message in and one out. Order is that of what happened: before a message that tells how much was
printed by then, the pipes are emptied.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torpor.core.errors import GuestError, Invalid
from torpor.core.limits import PIPE_BYTES_MAX
from torpor.engine.process.agent import Agent
from torpor.machines.channel import Channel, Message, Output, Skipped
from torpor.wire import messages, names, streams
from torpor.wire.link import STDERR, STDOUT

_READ_BYTES = 64 * 1024
# An agent that is this far ahead of its driver waits: nothing more is read of it.
INBOX_MAX = 4096
_LOOK_AGAIN_S = 0.01
# Whether a step was replayed shows in its output here (`MarkedOutput`).
_FROM_AGENT = {t: check for t, check in messages.FROM_PROCESS.items() if t != names.REPLAYED}
# Sent by people and hosts to end a process, not by a fault of its own.
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


class MarkedOutput:
    """One output stream, its marks found (`torpor.sdk.alone`), also where they come in pieces."""

    def __init__(self, channel: int, mark: bytes) -> None:
        self._channel = channel
        self._begin = b"\0" + mark + b":"
        self._held = b""  # what may be the beginning of a mark

    def take(self, data: bytes) -> Iterator[Output | Skipped]:
        data, self._held = self._held + data, b""
        while data:
            at = data.find(b"\0")
            if at > 0 or at < 0:
                yield Output(self._channel, data if at < 0 else data[:at])
                data = b"" if at < 0 else data[at:]
                continue
            offset, newline, rest = data[len(self._begin) :].partition(b"\n")
            if not data.startswith(self._begin[: len(data)]) or not (offset + b"0").isdigit():
                yield Output(self._channel, data[:1])  # an agent's own NUL
                data = data[1:]
            elif not newline:
                self._held = data
                return
            else:
                yield Skipped(self._channel, int(offset))
                data = rest

    def end(self) -> Iterator[Output | Skipped]:
        if self._held:
            yield Output(self._channel, self._held)


class ProcessGuest(Channel):
    def __init__(self, agent: Agent, arrived: asyncio.Event | None = None) -> None:
        super().__init__(arrived)
        self.agent = agent
        self._loop = asyncio.get_running_loop()
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._final = False  # the agent has said its last word
        self._loaded = False
        self._preparing = False  # it was told to stand still, and has not answered
        outputs = zip((STDOUT, STDERR), agent.outputs, strict=True)
        self._streams = {fd: MarkedOutput(channel, agent.mark) for channel, fd in outputs}
        self._watched: dict[int, Callable[[], object]] = {}
        self._watch(agent.control.fileno(), self._read_control)
        for fd in agent.outputs:
            self._watch(fd, partial(self._read_output, fd))
        self._end = asyncio.create_task(self._ended())

    def say(self, t: str, **fields: Any) -> None:
        self.say_line(messages.encode(t, **fields))
        if t == names.PREPARE:
            self._preparing = True
            if self._end.done():
                self._answer_for_it()

    def pass_on(self, frame: bytes) -> None:
        self.say_line(streams.to_line(frame))

    def say_line(self, line: bytes) -> None:
        idle = not self._outgoing
        self._outgoing += line
        self._outgoing += b"\n"
        if idle:
            self._write()

    async def close(self) -> None:
        """Hear no more, and give up the channels. The process must have been killed."""
        self._end.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._end
        for fd in list(self._watched):
            self._unwatch(fd)
        self._loop.remove_writer(self.agent.control.fileno())
        self.agent.close()

    # ---- in ----

    def _watch(self, fd: int, read: Callable[[], object]) -> None:
        self._watched[fd] = read
        self._loop.add_reader(fd, self._ready, fd)

    def _unwatch(self, fd: int) -> None:
        if self._watched.pop(fd, None) is not None:
            self._loop.remove_reader(fd)

    def _ready(self, fd: int) -> None:
        if len(self.inbox) < INBOX_MAX and not self.far_ahead:
            self._watched[fd]()
            self.arrived.set()
        else:
            self._loop.remove_reader(fd)
            self._loop.call_later(_LOOK_AGAIN_S, self._look_again, fd)

    def _look_again(self, fd: int) -> None:
        if fd in self._watched:
            self._loop.add_reader(fd, self._ready, fd)

    def _read_control(self) -> bool:
        """Take one read of what it says; False when there is none."""
        try:
            data = self.agent.control.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._unwatch(self.agent.control.fileno())
            return False
        self._incoming += data
        if b"\n" in data:
            *lines, rest = bytes(self._incoming).split(b"\n")
            self._incoming = bytearray(rest)
            try:
                for line in lines:
                    self._hear_line(line)
            except Invalid as error:
                self._distrust(error.message)
        if len(self._incoming) > messages.LINE_BYTES_MAX:
            self._distrust("a line without end")
        return True

    def _hear_line(self, line: bytes) -> None:
        if line.startswith(streams.LINE):
            self.inbox.append(streams.decode(streams.of_line(line), streams.FROM_GUEST))
            return
        message = Message(messages.decode(line, _FROM_AGENT))
        if message.t in messages.AFTER_OUTPUT:
            self._read_outputs()
        self._final = self._final or message.t in messages.FINAL
        self._loaded = self._loaded or message.t == names.LOADED
        if message.t in (names.PREPARED, names.UNPREPARED):
            self._preparing = False
        self.inbox.append(message)

    def _distrust(self, why: str) -> None:
        # Its own code wrote to a descriptor that is not its own: it cannot be trusted on.
        self._break(GuestError(f"the agent's process sent an invalid message: {why}"))

    def _read_output(self, fd: int) -> bool:
        """Take one read of what it prints; False when there is none."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.inbox.extend(self._streams[fd].take(data))
        else:
            self.inbox.extend(self._streams[fd].end())
            self._unwatch(fd)
        return bool(data)

    def _read_outputs(self) -> None:
        for fd in self.agent.outputs:
            # At most what a pipe holds: its children may go on writing without end.
            for _ in range(PIPE_BYTES_MAX // _READ_BYTES):
                if fd not in self._watched or not self._read_output(fd):
                    break

    async def _ended(self) -> None:
        code = await self.agent.process.wait()
        control = self.agent.control.fileno()
        while control in self._watched and self._read_control():
            pass
        self._read_outputs()
        if not self._final:
            if -code in _FROM_OUTSIDE and self._loaded:
                name = signal.Signals(-code).name
                self._break(GuestError(f"the agent's process was ended by {name}"))
            else:
                how = (code, None) if code >= 0 else (None, -code)
                exited = dict(zip(("code", "signal"), how, strict=True))
                self.inbox.append(Message({"t": names.EXITED, "oom": False, **exited}))
        self._answer_for_it()
        self.arrived.set()

    def _answer_for_it(self) -> None:
        """An agent that ended while it was to stand still answers no more, and whoever waits for
        that is to hear its end, which is in `inbox`."""
        if self._preparing:
            self._preparing = False
            self.inbox.append(
                Message({"t": names.UNPREPARED, "reason": "it has ended", "again_s": 0.0})
            )
            self.arrived.set()

    # ---- out ----

    def _write(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self.agent.control.send(self._outgoing)]
        except BlockingIOError:
            self._loop.add_writer(self.agent.control.fileno(), self._write_rest)
        except OSError:  # the process is gone: who waits for it says so
            self._outgoing.clear()

    def _write_rest(self) -> None:
        self._loop.remove_writer(self.agent.control.fileno())
        self._write()
