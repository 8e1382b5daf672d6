"""Between the pipes, or the terminal, of a command's process and its other side, which may be slow.

What it writes is read no further than the other side has room for (a *window*); what it is to read
is kept until its pipe takes it, and then told of. So neither is kept beyond that, however much
there is. It works in a machine and without one: the owner of the event loop is a `Watcher`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import signal
import struct
import termios
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

READ_BYTES = 64 * 1024
STDOUT, STDERR = 1, 2
_EOT = b"\x04"  # what a terminal takes for the end of what is typed


class Ends(NamedTuple):
    """A process that has become a command, and our ends of what it reads and writes, all of which
    do not block. `outputs` are descriptors, and which stream each is."""

    pid: int  # and that of its process group
    stdin: int | None
    outputs: Mapping[int, int]
    pty: bool


class Watcher(Protocol):
    """Such as a selector. `data` is called with what happened."""

    def register(self, fileobj: int, events: int, data: Callable[[int], None]) -> object: ...

    def unregister(self, fileobj: int) -> object: ...


class Side(Protocol):
    """The other side."""

    def wrote(self, stream: int, data: bytes) -> None: ...

    def taken(self, size: int) -> None:
        """So much of what was fed is in the process's hands."""

    def ended(self, code: int) -> None: ...


def open_terminal(rows: int, cols: int) -> tuple[int, int]:
    """Our end, and that of a process. Raises OSError."""
    ours, theirs = os.openpty()
    _set_size(ours, rows, cols)
    return ours, theirs


def _set_size(fd: int, rows: int, cols: int) -> None:
    """Programs that read from the terminal hear of it."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


class Pump:
    def __init__(self, ends: Ends, watcher: Watcher, side: Side, window: int) -> None:
        """`window`: so many bytes of what it writes may be passed on."""
        self.pid = ends.pid
        self._watcher, self._side = watcher, side
        self._stdin = ends.stdin
        self._outputs = dict(ends.outputs)  # those that have not ended
        # Closed last: a terminal that nobody has open hangs up, and a process that is just ending
        # might seem to have ended for that.
        self._terminal = next(iter(ends.outputs)) if ends.pty else None
        self._window = 0
        self._unwritten = bytearray()
        self._writing = False  # it is watched for room
        self._last = False  # nothing more will be fed
        self._code: int | None = None
        self.window(window)

    # What it writes.

    def window(self, size: int) -> None:
        """The other side takes so much more."""
        if self._window <= 0:
            for fd in self._outputs:
                self._watcher.register(fd, selectors.EVENT_READ, partial(self._ready, fd))
        self._window += size
        if self._code is not None:
            self._drain()

    def _ready(self, fd: int, mask: int) -> None:
        self._read(fd)

    def _read(self, fd: int) -> bool:
        """Pass on one read; False when there is none, now or for ever."""
        try:
            data = os.read(fd, min(READ_BYTES, self._window))
        except BlockingIOError:
            return False
        except OSError:  # a terminal that nobody has open any more
            data = b""
        if not data:
            self._end_output(fd)
            return False
        self._window -= len(data)
        self._side.wrote(self._outputs[fd], data)
        if self._window <= 0:
            for each in self._outputs:
                self._watcher.unregister(each)
        return True

    def _end_output(self, fd: int) -> None:
        self._watcher.unregister(fd)
        del self._outputs[fd]
        if fd != self._terminal:
            os.close(fd)

    # What it reads.

    def feed(self, data: bytes, *, last: bool) -> None:
        self._last = self._last or last
        if self._stdin is None:
            self._took(len(data))
            return
        self._unwritten += data
        if last and self._terminal is not None:
            self._unwritten += _EOT
        self._write()

    def _write(self, mask: int = 0) -> None:
        assert self._stdin is not None
        try:
            while self._unwritten:
                size = os.write(self._stdin, self._unwritten[:READ_BYTES])
                del self._unwritten[:size]
                self._took(size)
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it any more
            self._took(len(self._unwritten))
            self._unwritten.clear()
            self._last = True
        if bool(self._unwritten) != self._writing:
            self._writing = bool(self._unwritten)
            if self._writing:
                self._watcher.register(self._stdin, selectors.EVENT_WRITE, self._write)
            else:
                self._watcher.unregister(self._stdin)
        if self._last and not self._unwritten:
            os.close(self._stdin)
            self._stdin = None

    def _took(self, size: int) -> None:
        if size:
            self._side.taken(size)

    # Its life.

    def resize(self, rows: int, cols: int) -> None:
        if self._terminal is not None:
            _set_size(self._terminal, rows, cols)

    def signal(self, name: str) -> None:
        if self._code is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.Signals[f"SIG{name}"])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def exited(self, code: int) -> None:
        """Its process was reaped; a signal that ended it is a code below 0."""
        self._code = code
        self.kill()  # what it has left behind
        self._drain()

    def _drain(self) -> None:
        """What it had written comes before its end, as far as the host takes it."""
        assert self._code is not None
        for fd in list(self._outputs):
            while self._window > 0 and self._read(fd):
                pass
            if self._window <= 0:
                return
        self.close()
        self._side.ended(self._code)

    def close(self) -> None:
        """Pass on no more, whatever becomes of the process."""
        if self._stdin is not None:
            if self._writing:
                self._watcher.unregister(self._stdin)
            os.close(self._stdin)
            self._stdin = None
        for fd in list(self._outputs):
            if self._window > 0:
                self._watcher.unregister(fd)
            if fd != self._terminal:
                os.close(fd)
        self._outputs.clear()
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
