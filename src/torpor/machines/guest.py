"""The channel to one machine's supervisor: a link pumped over the machine's socket.

Bytes in become messages in `inbox`; messages out are queued and written as the guest takes
them. Nothing is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
import time
from typing import Any

from torpor.core.errors import GuestError, HostError, Invalid
from torpor.engine.protocol import Machine
from torpor.machines.channel import Channel, Message, Output
from torpor.wire import messages, names, streams
from torpor.wire.link import CONTROL, FILES, STDERR, STDOUT, STREAMS, Link, LinkError, Received

_READ_BYTES = 256 * 1024
_SETTLE_S = 0.005
# How often a machine on a full disk tries to go on; and it does if it stands for so long not again.
STALL_RETRY_S = 1.0
STALL_OVER_S = 0.5
# Of a run's file, a frame of the link carries so much; and so much may be under way.
FILE_FRAME_BYTES = 60 << 10
FILE_AHEAD_BYTES = 4 << 20
_INT = struct.Struct("i")


class Guest(Channel):
    """Owns the machine's link socket. One task reads it, one writes it, one minds that the machine
    does not stand still unseen."""

    def __init__(self, machine: Machine, link: Link, arrived: asyncio.Event | None = None) -> None:
        """`link` is fresh, or the one of the snapshot that `machine` was restored from."""
        super().__init__(arrived)
        self.machine = machine
        self.link = link
        self._to_write = asyncio.Event()
        self._taken = asyncio.Event()  # something came, perhaps an acknowledgement
        self._sending = False
        self._tasks = self._start()

    def _start(self) -> list[asyncio.Task[None]]:
        return [asyncio.create_task(do()) for do in (self._read, self._write, self._mind)]

    def say(self, t: str, **fields: Any) -> None:
        self.link.send(CONTROL, messages.encode(t, **fields))
        self._to_write.set()

    def pass_on(self, frame: bytes) -> None:
        self.link.send(STREAMS, frame)
        self._to_write.set()

    async def send_files(self, tar: bytes) -> None:
        """The agent's own. Raises GuestError."""
        for at in range(0, len(tar), FILE_AHEAD_BYTES):
            await self.send_file(tar[at : at + FILE_AHEAD_BYTES])

    async def send_file(self, piece: bytes) -> None:
        """Some of the bytes of a file that was announced, as fast as the machine takes them. Raises
        GuestError."""
        for at in range(0, len(piece), FILE_FRAME_BYTES):
            self.link.send(FILES, piece[at : at + FILE_FRAME_BYTES])
            self._to_write.set()
        await self.room(FILE_AHEAD_BYTES)
        if self.broken is not None:
            raise self.broken

    async def room(self, ahead_bytes: int) -> None:
        while self.link.unacked >= ahead_bytes and self.broken is None:
            self._taken.clear()
            await self._taken.wait()

    def synchronise(self) -> None:
        """Begin (again) over a byte stream that may have lost or cut anything."""
        self.link.sync()
        self._to_write.set()

    async def stop_pumping(self) -> None:
        """No more is read or written in the background. `drain` still can."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks = []

    @property
    def pumping(self) -> bool:
        return bool(self._tasks)

    def go_on_pumping(self) -> None:
        # A write that was cut off half way is made good as any other cut of the stream is.
        self.link.sync()
        self._tasks = self._start()
        self._to_write.set()

    def drain(self) -> None:
        """Take in all that a paused machine had written: it is part of what it sent before the
        pause, and the socket goes away with the process."""
        with contextlib.suppress(OSError):
            while self.broken is None and (data := self.machine.link.recv(_READ_BYTES)):
                self._take(data)

    @property
    def unread(self) -> bool:
        """Whether anything that was written has not been read by the machine, or was only written
        in part."""
        answer = fcntl.ioctl(self.machine.link, termios.TIOCOUTQ, _INT.pack(0))
        return self._sending or _INT.unpack(answer) != (0,)

    async def settle(self, within_s: float) -> None:
        """Wait until all that is queued was sent and read. Nothing notifies of that: the socket is
        polled. Raises GuestError."""
        deadline = time.monotonic() + within_s
        while self._to_write.is_set() or self.unread:
            if time.monotonic() > deadline:
                raise GuestError(f"the machine has not read its messages for {within_s:g} s")
            await asyncio.sleep(_SETTLE_S)

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        # A machine that ends with bytes unread makes an error of the end.
        with contextlib.suppress(OSError):
            while self.broken is None:
                if self.far_ahead:
                    await asyncio.sleep(_SETTLE_S)
                elif data := await loop.sock_recv(self.machine.link, _READ_BYTES):
                    self._take(data)
                else:
                    break
        if self.broken is None:
            self._break(GuestError(f"the machine is gone: {await self.machine.ended()}"))

    def _take(self, data: bytes) -> None:
        try:
            for received in self.link.receive(data):
                self._understand(received)
        except (LinkError, Invalid) as error:
            self._break(GuestError(f"the machine sent an invalid message: {error}"))
        self._to_write.set()  # acknowledgements
        self._taken.set()
        if self.inbox:
            self.arrived.set()

    def _understand(self, received: Received) -> None:
        if received.channel == CONTROL:
            message = Message(messages.decode(received.message, messages.FROM_GUEST))
            if message.t == names.CRASHED:
                trace = message.fields["traceback"]
                self._break(GuestError(f"the machine's supervisor failed:\n{trace}".rstrip()))
            else:
                self.inbox.append(message)
        elif received.channel in (STDOUT, STDERR):
            self.inbox.append(Output(received.channel, received.message))
        elif received.channel == STREAMS:
            self.inbox.append(streams.decode(received.message, streams.FROM_GUEST))
        else:
            raise Invalid(f"the machine used channel {received.channel}, which is not its own")

    def _break(self, error: GuestError) -> None:
        super()._break(error)
        self._taken.set()

    async def _mind(self) -> None:
        """Have a machine that stands still, since the host's disk is full, try again until it goes
        on. Nothing notifies of room on a disk: trying is how that is found out."""
        try:
            while True:
                if self.stall is None:
                    self._stand(await self.machine.stalled())
                await asyncio.sleep(STALL_RETRY_S)
                await self.machine.resume()
                try:
                    async with asyncio.timeout(STALL_OVER_S):
                        self._stand(await self.machine.stalled())
                except TimeoutError:
                    self._stand(None)
        except HostError as error:
            if self.machine.alive:  # else the reader has more to say
                self._break(GuestError(f"the machine stands still: {error.message}"))

    def _stand(self, why: str | None) -> None:
        self.stall = why
        self.arrived.set()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):  # the reader learns how it ended
            while True:
                await self._to_write.wait()
                self._to_write.clear()
                if data := self.link.data_to_send():
                    self._sending = True
                    await loop.sock_sendall(self.machine.link, data)
                    self._sending = False
