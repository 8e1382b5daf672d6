"""A command on this host, beside an agent that is a plain process: as free as that, and in a
process group of its own, which ends with it.

It is begun by a little program of Python's (`_BECOME`), since a server with threads cannot run code
of its own between fork and exec: that ties it to the server's life, gives it its terminal, and says
why where it cannot become the command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from torpor.core.execs import CANNOT_EXECUTE, NOT_FOUND, CommandRequest
from torpor.guest.pumping import STDERR, STDOUT, Ends, Pump, Side, open_terminal

_BECOME = f"""
import ctypes, os, signal, sys
tell, terminal, command = int(sys.argv[1]), sys.argv[2] == "1", sys.argv[3:]
os.set_inheritable(tell, False)
try:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if terminal:
        import fcntl, termios
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.execvp(command[0], command)
except OSError as error:
    missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
    code = {NOT_FOUND} if missing else {CANNOT_EXECUTE}
    os.write(tell, f"{{code}} {{command[0]}}: {{error.strerror}}".encode())
"""
_TELLS_BYTES_MAX = 4096


class NotStarted(Exception):
    """`code` is what a shell would give for it."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code, self.why = code, why


class LocalCommand:
    """Has what `torpor.worker.commands.Hand` asks for."""

    def __init__(
        self, process: asyncio.subprocess.Process, ends: Ends, side: Side, window: int
    ) -> None:
        self._process = process
        self._pump = Pump(ends, _Loop(), side, window)
        self._end = asyncio.create_task(self._ended())

    @classmethod
    async def start(
        cls,
        request: CommandRequest,
        environment: Mapping[str, str],
        directory: Path,
        side: Side,
        window: int,
    ) -> LocalCommand:
        """Begin it below `directory`, with so much of what it writes allowed. Raises NotStarted."""
        where = directory / (request.dir or ".")
        if not where.is_dir():
            raise NotStarted(CANNOT_EXECUTE, f"{where}: there is no such directory")
        ours: list[int] = []
        theirs: list[int] = []
        try:
            report, reporting = _pair(ours, theirs)
            if request.size is not None:
                master, terminal = open_terminal(*request.size)
                ours.append(master)
                theirs.append(terminal)
                # Another descriptor, so that each way is closed for itself.
                stdin, outputs, standard = os.dup(master), {master: STDOUT}, (terminal,) * 3
            else:
                read, stdin = os.pipe()
                theirs.append(read)
                out, out_end = _pair(ours, theirs)
                err, err_end = _pair(ours, theirs)
                outputs, standard = {out: STDOUT, err: STDERR}, (read, out_end, err_end)
            ours.append(stdin)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", "-c", _BECOME),
                *(str(reporting), str(int(request.size is not None)), *request.command),
                stdin=standard[0],
                stdout=standard[1],
                stderr=standard[2],
                pass_fds=(reporting,),
                start_new_session=True,
                cwd=where,
                env=dict(environment),
            )
        except (OSError, ValueError) as error:
            for fd in ours:
                os.close(fd)
            raise NotStarted(CANNOT_EXECUTE, f"no command can begin now: {error}") from error
        finally:
            for fd in theirs:
                os.close(fd)
        problem = await asyncio.to_thread(os.read, report, _TELLS_BYTES_MAX)
        if problem:
            for fd in ours:
                os.close(fd)
            await process.wait()
            code, _, why = problem.decode(errors="replace").partition(" ")
            raise NotStarted(int(code), why)
        os.close(report)
        if not request.stdin:
            os.close(stdin)
        for fd in (*outputs, *([stdin] if request.stdin else [])):
            os.set_blocking(fd, False)
        ends = Ends(
            process.pid, stdin if request.stdin else None, outputs, request.size is not None
        )
        return cls(process, ends, side, window)

    def feed(self, data: bytes, *, last: bool) -> None:
        self._pump.feed(data, last=last)

    def window(self, size: int) -> None:
        self._pump.window(size)

    def resize(self, rows: int, cols: int) -> None:
        self._pump.resize(rows, cols)

    def signal(self, name: str) -> None:
        self._pump.signal(name)

    def kill(self) -> None:
        self._pump.kill()
        self._pump.close()
        self._end.cancel()

    async def _ended(self) -> None:
        self._pump.exited(await self._process.wait())


def _pair(ours: list[int], theirs: list[int]) -> tuple[int, int]:
    read, write = os.pipe()
    ours.append(read)
    theirs.append(write)
    return read, write


class _Loop:
    """The event loop as a `Watcher`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def register(self, fileobj: int, events: int, data: Callable[[int], None]) -> None:
        if events & selectors.EVENT_READ:
            self._loop.add_reader(fileobj, data, events)
        else:
            self._loop.add_writer(fileobj, data, events)

    def unregister(self, fileobj: int) -> None:
        # A descriptor is watched for one of the two.
        with contextlib.suppress(ValueError):
            self._loop.remove_reader(fileobj)
            self._loop.remove_writer(fileobj)
