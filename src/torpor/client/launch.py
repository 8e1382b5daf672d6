"""The server's process on this host, as a client starts and stops it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from torpor.client.api import Client, OnProgress
from torpor.client.problems import Unreachable
from torpor.client.remote import KEY, URL
from torpor.core.errors import HostError
from torpor.core.home import Home

SERVER_START_S = 60.0
STOP_S = 60.0
_SERVER_POLL_S = 0.05
_LOG_LINES = 12


def server_command(home: Home) -> list[str]:
    return [sys.executable, "-m", "torpor.api", "--home", str(home.root)]


def running(home: Home) -> bool:
    """Whether a server process has this data directory, answering or not: it holds the lock."""
    try:
        with (home.run / "server.lock").open("rb") as file:
            import fcntl  # Linux's and macOS's

            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def require_linux() -> None:
    """Raise HostError where no server can run."""
    if sys.platform != "linux":
        raise HostError(
            f"torpor's server runs only on Linux; this is {sys.platform}",
            hint=f"Use a server elsewhere: set {URL}=https://… and {KEY}=torpor_…",
        )


def ensure_server(home: Home, *, deadline_s: float = SERVER_START_S) -> Client:
    """A client of a server that answers; started, detached from this terminal, if none runs.

    Raises HostError, with the last lines of its log, when it ends instead or takes too long.
    Several callers at once are fine: the lock lets one server live, and all find it. One that is
    elsewhere is taken as it is.
    """
    client = Client(home)
    if client.remote is not None:
        return client
    require_linux()
    home.create()
    path = home.run / "server.log"
    began = path.stat().st_size if path.exists() else 0
    child: subprocess.Popen[bytes] | None = None
    until = time.monotonic() + deadline_s
    while time.monotonic() < until:
        try:
            client.health()
            return client
        except Unreachable:
            pass
        if child is not None and child.poll() is not None:
            if not running(home):
                raise HostError("the server did not start", hint=_tail(path, began))
            child = None  # another one was first: wait for that
        elif child is None and not running(home):
            child = _spawn(home, path)
        time.sleep(_SERVER_POLL_S)
    raise HostError(f"the server did not answer within {deadline_s:.0f} s", hint=_tail(path, began))


def _unheard(stage: str, message: str, fraction: float | None) -> None:
    pass


def stop_server(
    home: Home, on_progress: OnProgress = _unheard, *, deadline_s: float = STOP_S
) -> None:
    """Ask the server to stop and wait until its process is gone. Raises Unreachable, HostError."""
    Client(home).shutdown(on_progress)
    until = time.monotonic() + deadline_s
    while running(home):
        if time.monotonic() > until:
            raise HostError(
                f"the server did not stop within {deadline_s:.0f} s",
                hint=f"See {home.run / 'server.log'}.",
            )
        time.sleep(_SERVER_POLL_S)


def _spawn(home: Home, log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            server_command(home),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env={name: value for name, value in os.environ.items() if name not in (URL, KEY)},
            start_new_session=True,  # Ctrl-C in this terminal is not meant for it
        )


def _tail(path: Path, began: int) -> str:
    """The last lines written to the log since it had `began` bytes."""
    with path.open("rb") as file:
        file.seek(began)
        lines = file.read().decode(errors="replace").splitlines()[-_LOG_LINES:]
    shown = "\n".join(f"  {line}" for line in lines)
    return f"The end of {path}:\n{shown}" if lines else f"Its log, {path}, says nothing."
