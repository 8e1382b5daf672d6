"""Start the pager of a data directory, unless it runs."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from torpor.core.errors import HostError, Missing
from torpor.core.home import Home
from torpor.pager.client import PagerClient

FUSE_DEVICE = Path("/dev/fuse")
BINDING = "pyfuse3"
START_SECONDS_MAX = 20.0
_POLL_SECONDS = 0.02
_LOG_LINES_SHOWN = 8


async def ensure_pager(home: Home) -> PagerClient:
    """A client of the pager that serves `home`, started if none answers.

    Starters that race each start a process: the lock lets one of them serve, the others end with
    status 0, or are ended by their starters, who find the one that does. One that finds a pager on
    its way out tries again. Raises Missing, HostError.
    """
    client = PagerClient(home.socket("pager"))
    deadline = asyncio.get_running_loop().time() + START_SECONDS_MAX
    child: subprocess.Popen[bytes] | None = None
    try:
        while True:
            try:
                serving = await client.ping()
            except Missing:
                pass
            else:
                if child is not None and child.pid != serving["pid"]:
                    child.terminate()  # else it might take over much later, when nobody wants one
                return client
            if child is not None and child.returncode:
                raise HostError(
                    f"the pager ended with status {child.returncode}:\n{_log_end(home)}",
                    hint=f"Its log is {_log(home)}.",
                )
            if asyncio.get_running_loop().time() > deadline:
                raise HostError(
                    f"the pager did not answer within {START_SECONDS_MAX:.0f} s:\n{_log_end(home)}",
                    hint=f"Its log is {_log(home)}.",
                )
            if child is None or child.returncode == 0:
                child = _start(home)
            await asyncio.sleep(_POLL_SECONDS)
    except asyncio.CancelledError:  # a server that is stopped as it starts: nobody would end it
        if child is not None:
            child.terminate()
        raise


def has_binding() -> bool:
    """Whether the Python package that speaks to FUSE is here."""
    return importlib.util.find_spec(BINDING) is not None


def require_device() -> None:
    """Raises Missing unless /dev/fuse can be opened."""
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        if FUSE_DEVICE.exists():
            state = "may not be opened by this user"
            hint = f"Everywhere else all users may: chmod 666 {FUSE_DEVICE}"
        else:
            state = "does not exist"
            hint = f"Load the kernel module `fuse`, and give containers --device {FUSE_DEVICE}."
        raise Missing(f"{FUSE_DEVICE} {state}: machines' memory cannot be served", hint=hint)


def require_fuse() -> None:
    """Raises Missing, naming what this host lacks."""
    require_device()
    if shutil.which("fusermount3") is None:
        raise Missing(
            "the program fusermount3 is absent: machines' memory cannot be served",
            hint="torpor setup installs it.",
        )
    if not has_binding():
        raise Missing(
            f"the Python package {BINDING} is absent: machines' memory cannot be served",
            hint="torpor setup installs it, or pip install 'torpor[machines]'.",
        )


def _start(home: Home) -> subprocess.Popen[bytes]:
    """In a session of its own: it outlives us, and no Ctrl-C meant for us reaches it."""
    require_fuse()
    home.create()
    with _log(home).open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "torpor.pager", "--home", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},  # ours may hold a secret
            start_new_session=True,
        )
    # Reaps it whenever it ends, so that it leaves no zombie while we live.
    threading.Thread(target=child.wait, daemon=True).start()
    return child


def _log(home: Home) -> Path:
    return home.socket("pager").with_suffix(".log")


def _log_end(home: Home) -> str:
    return "\n".join(_log(home).read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])
