"""The agent's process, as the supervisor sees it."""

from __future__ import annotations

import contextlib
import ctypes
import marshal
import os
import socket
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

from torpor.guest.cgroup import Cgroup
from torpor.guest.settings import Settings
from torpor.wire import messages

READ_BYTES = 64 * 1024
_PR_SET_NO_NEW_PRIVS = 38


class Program(NamedTuple):
    """What an agent is, in its machine."""

    deps: bool  # it has dependencies
    env: Mapping[str, str]
    trust: Mapping[str, str]  # what its clients are to know of the way out
    model: Mapping[str, str]  # how they find the deployment's own model, if they are to


class AgentProcess:
    """A started agent: its pid and the four channels to it, all non-blocking for us.

    `control` carries JSON lines both ways, `hold` single bytes from the agent and releases to it
    (see `torpor.sdk.freezing`), `stdout` and `stderr` are what it writes.
    """

    def __init__(self, settings: Settings, program: Program) -> None:
        self.program = program
        self.control, control = socket.socketpair()
        self.hold, hold = socket.socketpair()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self.cgroup = Cgroup(settings.cgroup) if settings.cgroup is not None else None
        if self.cgroup is not None and settings.machine:
            self.cgroup.limit()
        command = [
            settings.python,
            *("-P", "-m", "torpor.sdk.process"),
            *(str(control.fileno()), str(hold.fileno())),
            str(settings.app),
            *([str(settings.deps)] if program.deps else []),
        ]
        environment = {**surroundings(settings, program), **program.model}
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._become(
                    settings,
                    command,
                    environment,
                    (stdout, stderr),
                    (control.fileno(), hold.fileno()),
                )
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(127)
        for ours in (control, hold):
            ours.close()
        for fd in (stdout, stderr):
            os.close(fd)
        self.control.setblocking(False)
        os.set_blocking(self.stdout, False)
        os.set_blocking(self.stderr, False)

    def _become(
        self,
        settings: Settings,
        command: list[str],
        environment: Mapping[str, str],
        outputs: tuple[int, int],
        kept: tuple[int, int],
    ) -> None:
        """In the child: turn into the agent's process."""
        if self.cgroup is not None:
            self.cgroup.enter()
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for target, fd in enumerate((null, *outputs)):
            os.dup2(fd, target)
        for fd in kept:
            os.set_inheritable(fd, True)
        settings.app.mkdir(parents=True, exist_ok=True)
        if settings.uid is not None:
            os.chown(settings.app, settings.uid, settings.uid)
            become_user(settings.uid)
        os.chdir(settings.app)
        os.execve(command[0], command, environment)

    def say(self, t: str, **fields: Any) -> None:
        """Queue a message for the agent; see `flush`."""
        self.say_line(messages.encode(t, **fields))

    def say_line(self, line: bytes) -> None:
        self._outgoing += line + b"\n"

    def flush(self) -> bool:
        """Write what can be written; True when nothing is left."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while self._outgoing:
                del self._outgoing[: self.control.send(self._outgoing)]
        return not self._outgoing

    def read_lines(self) -> list[bytes] | None:
        """The whole lines that have come; None at the end. Raises ValueError for one too long."""
        try:
            data = self.control.recv(READ_BYTES)
        except BlockingIOError:
            return []
        except ConnectionResetError:
            return None
        if not data:
            return None
        self._incoming += data
        if b"\n" not in data:
            if len(self._incoming) > messages.LINE_BYTES_MAX:
                raise ValueError("a line without end")
            return []
        *lines, rest = bytes(self._incoming).split(b"\n")
        self._incoming = bytearray(rest)
        return lines

    def release(self, identity: Mapping[str, Any]) -> None:
        """Let a held process go on, as `identity` says."""
        with contextlib.suppress(BrokenPipeError):
            self.hold.send(marshal.dumps(dict(identity)))

    def close(self) -> None:
        self.control.close()
        self.hold.close()
        os.close(self.stdout)
        os.close(self.stderr)


def become_user(uid: int) -> None:
    """For good: no program gives back what is given up here."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def surroundings(settings: Settings, program: Program) -> dict[str, str]:
    """The environment of what runs beside the agent, and of the agent, but for its model."""
    return {
        "LANG": "C.UTF-8",
        **program.trust,
        **program.env,
        "PATH": f"{settings.deps}/bin:{_PATH}" if program.deps else _PATH,
        "HOME": str(settings.home),
        "USER": "agent",
        "PYTHONPATH": str(settings.package),
        "PYTHONUNBUFFERED": "1",
    }


def describe_exit(status: int, cgroup: Cgroup | None) -> dict[str, Any]:
    """The fields of `exited` for a wait status."""
    code = os.waitstatus_to_exitcode(status)
    killed = code == -9 and cgroup is not None and cgroup.killed_by_memory
    return {
        "code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "oom": killed,
    }


def exit_text(exited: dict[str, Any]) -> str:
    """Of an `exited` message, while the file was imported, in words."""
    how = f"signal {exited['signal']}" if exited["code"] is None else f"exit code {exited['code']}"
    why = "; it used all of the machine's memory" if exited["oom"] else ""
    return f"the agent's process ended with {how} while its file was imported{why}"
