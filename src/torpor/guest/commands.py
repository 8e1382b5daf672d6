"""Commands that people run beside the agent (`torpor exec`): in its machine, as its user, in its
directory, with its environment but for its model.

What they write goes to the host in messages, no more than the host has said that it takes (a
*window*); what they are to read is acknowledged once it is in their pipe. So neither side keeps
more than a window of what the other is slow to take.

A command is in the agent's control group: it stands still when the agent does, and when memory is
short it is the first to go. It ends with its client: its process group is killed, and when it has
ended itself, too, what it left in that group. In a machine that is thawed from a snapshot there is
nobody any more that asked for it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import selectors
import signal
import termios
import traceback
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from torpor.core.execs import CANNOT_EXECUTE, NOT_FOUND
from torpor.core.layout import installed
from torpor.guest.agent import Program, become_user, surroundings
from torpor.guest.cgroup import Cgroup
from torpor.guest.pumping import READ_BYTES, STDERR, STDOUT, Ends, Pump, open_terminal
from torpor.guest.settings import Settings
from torpor.wire import messages, names
from torpor.wire.messages import TEXT_MAX

_OOM_FIRST = "1000"

Send = Callable[[bytes], None]


class Commands:
    def __init__(self, settings: Settings, selector: selectors.BaseSelector, send: Send) -> None:
        self.program: Program | None = None  # the agent's, once there is one
        self.cgroup: Cgroup | None = None  # likewise
        self.env: Mapping[str, str] = {}  # of the run
        self._settings, self._selector, self._send = settings, selector, send
        self._running: dict[str, Pump] = {}
        self.handlers: dict[str, Callable[[dict[str, Any]], None]] = {
            names.EXEC: self._begin,
            names.EXEC_STDIN: self._of(lambda command, m: command.feed(_bytes(m), last=m["last"])),
            names.EXEC_WINDOW: self._of(lambda command, m: command.window(m["bytes"])),
            names.EXEC_SIZE: self._of(lambda command, m: command.resize(m["rows"], m["cols"])),
            names.EXEC_SIGNAL: self._of(lambda command, m: command.signal(m["signal"])),
            names.EXEC_KILL: self._kill,
        }

    def reaped(self, pid: int, status: int) -> None:
        """A child of the supervisor has ended."""
        for command in self._running.values():
            if command.pid == pid:
                command.exited(os.waitstatus_to_exitcode(status))
                return

    def end_all(self) -> None:
        for command in self._running.values():
            command.kill()
            command.close()
        self._running.clear()

    def _of(self, do: Callable[[Pump, dict[str, Any]], None]) -> Callable[[Any], None]:
        def handle(message: dict[str, Any]) -> None:
            command = self._running.get(message["exec"])
            if command is not None:  # else it has just ended
                do(command, message)

        return handle

    def _begin(self, message: dict[str, Any]) -> None:
        program = self.program or Program(deps=False, env={}, trust={}, model={})
        environment = {
            **installed(self._settings.app, surroundings(self._settings, program)),
            **self.env,
            **message["env"],
        }
        if "size" in message:
            environment.setdefault("TERM", "xterm-256color")
        exec = message["exec"]
        try:
            ends = _start(message, environment, self._settings, self.cgroup)
        except _NotStarted as error:
            self._say(names.EXEC_EXITED, exec, code=error.code, problem=str(error)[:TEXT_MAX])
        else:
            side = _Side(partial(self._say, exec=exec), lambda: self._running.pop(exec, None))
            self._running[exec] = Pump(ends, self._selector, side, message["window"])

    def _kill(self, message: dict[str, Any]) -> None:
        command = self._running.pop(message["exec"], None)
        if command is not None:
            command.kill()
            command.close()

    def _say(self, t: str, exec: str, **fields: Any) -> None:
        self._send(messages.encode(t, exec=exec, **fields))


class _Side:
    """The host."""

    def __init__(self, say: Callable[..., None], gone: Callable[[], object]) -> None:
        self._say, self._gone = say, gone

    def wrote(self, stream: int, data: bytes) -> None:
        text = b2a_base64(data, newline=False).decode()
        self._say(names.EXEC_OUTPUT, stream=stream, data=text)

    def taken(self, size: int) -> None:
        self._say(names.EXEC_TAKEN, bytes=size)

    def ended(self, code: int) -> None:
        self._gone()
        self._say(names.EXEC_EXITED, **({"code": code} if code >= 0 else {"signal": -code}))


def _bytes(message: Mapping[str, Any]) -> bytes:
    return a2b_base64(message["data"])


class _NotStarted(Exception):
    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def _start(
    message: Mapping[str, Any],
    environment: Mapping[str, str],
    settings: Settings,
    cgroup: Cgroup | None,
) -> Ends:
    """Raises _NotStarted."""
    size: dict[str, int] | None = message.get("size")
    uid = None if message["root"] and settings.machine else settings.uid
    ours: list[int] = []
    theirs: list[int] = []
    try:
        report, reporting = os.pipe2(os.O_CLOEXEC)
        ours.append(report)
        theirs.append(reporting)
        if size is not None:
            master, terminal = open_terminal(size["rows"], size["cols"])
            ours.append(master)
            theirs.append(terminal)
            if uid is not None:
                os.fchown(terminal, uid, -1)
            # Another descriptor, so that each way is closed for itself.
            stdin, outputs, standard = os.dup(master), {master: STDOUT}, (terminal,) * 3
        else:
            read, stdin = os.pipe()
            out, out_end = os.pipe()
            err, err_end = os.pipe()
            outputs, standard = {out: STDOUT, err: STDERR}, (read, out_end, err_end)
            ours += outputs
            theirs += standard
        ours.append(stdin)
        pid = os.fork()
    except OSError as error:
        for fd in (*ours, *theirs):
            os.close(fd)
        raise _NotStarted(CANNOT_EXECUTE, f"no command can begin now: {error}") from error
    if pid == 0:
        directory = settings.app / (message.get("dir") or ".")
        command = message["command"]
        _become(command, environment, directory, standard, uid, cgroup, reporting, size is not None)
    for fd in theirs:
        os.close(fd)
    if problem := os.read(report, READ_BYTES):  # none once it has become the command
        for fd in ours:
            os.close(fd)
        code, _, why = problem.decode(errors="replace").partition(" ")
        raise _NotStarted(int(code), why)
    os.close(report)
    if not message["stdin"]:
        os.close(stdin)
    else:
        os.set_blocking(stdin, False)
    for fd in outputs:
        os.set_blocking(fd, False)
    return Ends(pid, stdin if message["stdin"] else None, outputs, size is not None)


def _become(
    command: list[str],
    environment: Mapping[str, str],
    directory: Path,
    standard: tuple[int, ...],
    uid: int | None,
    cgroup: Cgroup | None,
    reporting: int,
    pty: bool,
) -> NoReturn:
    """In the child: turn into the command, or say why not."""
    try:
        if cgroup is not None:
            cgroup.enter()
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
        os.setsid()
        for target, fd in enumerate(standard):
            os.dup2(fd, target)
        if pty:
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        if uid is not None:
            become_user(uid)
        for number in (signal.SIGPIPE, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.chdir(directory)
        except OSError as error:
            os.write(reporting, f"{CANNOT_EXECUTE} {directory}: {error.strerror}".encode())
            os._exit(CANNOT_EXECUTE)
        os.execvpe(command[0], command, environment)
    except OSError as error:
        missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
        code = NOT_FOUND if missing else CANNOT_EXECUTE
        os.write(reporting, f"{code} {command[0]}: {error.strerror}".encode())
    except BaseException:
        os.write(reporting, f"{CANNOT_EXECUTE} {traceback.format_exc()}"[:4000].encode())
    os._exit(CANNOT_EXECUTE)
