"""One agent's process on this host, and the channels to it.

It has its own session, so that all that it starts can be ended with it, a clean environment, and
of the server's descriptors only those that are its own. It ends with its server: its control
channel closes then (`torpor.sdk.alone`). Nothing else holds it back: it is as free as its user.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torpor.core.egress import Rule
from torpor.core.errors import HostError
from torpor.core.imports import Import
from torpor.engine.cputime import cpu_s

# What it gets of the server's environment: where programs, temporary files and certificates are,
# and how to write. Not what else is in there: keys, for example (rule 9).
INHERITED = ("PATH", "TMPDIR", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")


@dataclass(frozen=True)
class Program:
    """What an agent's version is on this host."""

    app: Path  # its files as they were deployed, which nothing writes to
    entry: str  # of these, the one that is run
    interpreter: Interpreter
    leaves: tuple[Mapping[str, Any], ...] = ()  # certificates of hosts that its rules name


@dataclass(frozen=True)
class Interpreter:
    """What a process is started with, before it knows its agent: those that have the same may take
    each other's place."""

    package: Path  # the directory that holds the package torpor, and nothing else
    deps: Path | None  # dependencies, a directory of modules
    env: tuple[tuple[str, str], ...] = ()  # the agent's own environment
    ahead: Ahead | None = None
    reach: Reach | None = None  # of an agent whose file has rules


@dataclass(frozen=True)
class Reach:
    """What an agent may reach, and whom its clients trust."""

    rules: tuple[Rule, ...]
    placeholders: tuple[tuple[str, str], ...]
    env: tuple[tuple[str, str], ...]  # the agent's own environment, which comes before ours
    authority: str  # a certificate in PEM
    trust: Path  # the directory that has it for clients

    @property
    def fields(self) -> dict[str, Any]:
        """Of `import` and `load`."""
        return {
            "egress": [rule.to_guest() for rule in self.rules],
            "placeholders": dict(self.placeholders),
            "env": dict(self.env),
            "authority": self.authority,
            "trust": str(self.trust),
        }


@dataclass(frozen=True)
class Ahead:
    """What a process has imported before it knows its agent, as any agent that looks like this
    would have it first (`torpor.core.imports`)."""

    entry: str
    files: tuple[tuple[str, bytes], ...]  # as far as imports may know of them
    modules: tuple[Import, ...]


class Agent:
    """A started process. `control` carries JSON lines both ways, `outputs` are what it writes to
    stdout and stderr, with `mark` (see `torpor.sdk.alone`). All are non-blocking."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        control: socket.socket,
        outputs: tuple[int, int],
        mark: bytes,
    ) -> None:
        self.process = process
        self.control = control
        self.outputs = outputs
        self.mark = mark
        control.setblocking(False)
        for fd in outputs:
            os.set_blocking(fd, False)

    @classmethod
    async def start(cls, interpreter: Interpreter) -> Agent:
        """Start one that waits for what to load. Raises HostError."""
        mark = secrets.token_hex(16)
        ours, theirs = socket.socketpair()
        pipes = os.pipe(), os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-S", "-P", "-m", "torpor.sdk.alone", str(theirs.fileno()), mark),
                *([str(interpreter.deps)] if interpreter.deps is not None else []),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=pipes[0][1],
                stderr=pipes[1][1],
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                cwd=interpreter.package,
                env=surroundings(interpreter),
            )
        except OSError as error:
            ours.close()
            for fd, _ in pipes:
                os.close(fd)
            raise HostError(f"the agent's process cannot be started: {error}") from error
        finally:
            theirs.close()
            for _, fd in pipes:
                os.close(fd)
        return cls(process, ours, (pipes[0][0], pipes[1][0]), mark.encode())

    @property
    def pid(self) -> int:
        return self.process.pid

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    async def kill(self) -> None:
        """It and all that it has started and that has not left its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()

    def close(self) -> None:
        self.control.close()
        for fd in self.outputs:
            os.close(fd)


def surroundings(interpreter: Interpreter) -> dict[str, str]:
    """The environment of an agent, but for its home and what it adds itself."""
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    if interpreter.deps is not None:
        path = inherited.get("PATH", os.defpath)
        inherited["PATH"] = os.pathsep.join((str(interpreter.deps / "bin"), path))
    return {
        **inherited,
        **dict(interpreter.env),
        "HOME": str(interpreter.package),  # until it loads an agent
        "USER": "agent",
        "PYTHONPATH": str(interpreter.package),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }
