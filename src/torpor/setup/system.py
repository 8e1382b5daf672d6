"""Which host this is, and whether machines can run on such a one at all. Loads on every system."""

from __future__ import annotations

import platform
import sys

from torpor.core.checks import Check
from torpor.setup import apt

PROCESSES = "Agents run here as plain processes, --engine process, which isolates them from nothing"
ELSEWHERE = (
    "What works here: tests of agents (torpor.testing), and the commands for a server on another "
    "host (TORPOR_URL, TORPOR_API_KEY). What does not: a server, of machines or plain processes."
)
PROCESSOR = "x86_64"


def system() -> Check:
    if sys.platform != "linux":
        name = {"darwin": "macOS", "win32": "Windows"}.get(sys.platform, sys.platform)
        return Check("system", False, f"{name}: torpor's server runs on Linux only", ELSEWHERE)
    name, processor = _distribution(), platform.machine()
    if processor != PROCESSOR:
        detail = f"{name}, {processor}: machines need an x86-64 processor"
        return Check("system", False, detail, f"{PROCESSES}.")
    if not apt.is_here():
        detail = f"{name}, x86-64: no apt-get, so programs are for you to install"
        return Check("system", None, detail, f"{PROCESSES}; they need none of these programs.")
    return Check("system", True, f"{name}, x86-64")


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "Linux"
