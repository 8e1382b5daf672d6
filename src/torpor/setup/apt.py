"""Installing Debian packages, as root or through sudo."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torpor.image.tools import ProgramFailed, run
from torpor.setup.packages import TESTS, Package

if TYPE_CHECKING:  # a bare Python has none of what that imports
    from torpor.image.build import Progress

LISTS = Path("/var/lib/apt/lists")
# Others may be installing, too: a host that has just started updates itself.
_WAIT_S = 300
_TOTAL = re.compile(r"(\d+) newly installed")
_DONE = re.compile(r"(Unpacking|Setting up) ([^ :]+)")


def is_here() -> bool:
    return shutil.which("apt-get") is not None


def may_install() -> bool:
    """Without asking anybody."""
    return os.geteuid() == 0


def has(package: Package) -> bool:
    """Whether the archive has it, as far as is known: Ubuntu's has no chromium."""
    return not is_here() or _is_known(package) or not any(LISTS.glob("*_Packages*"))


def install(packages: Sequence[Package], progress: Progress) -> None:
    """Raises HostError, Exhausted. What only tests need is left out where it cannot be had."""
    progress("lists", "reading the package lists", None)
    _apt("update")
    available = [each for each in packages if each not in TESTS or _is_known(each)]
    if not available:
        return
    names = [each.name for each in available]
    progress("packages", f"installing {' '.join(names)}", 0.0)
    _apt("install", "-y", "--no-install-recommends", *names, on_line=_counted(progress))


def _apt(*command: str, on_line: Callable[[str], None] | None = None) -> None:
    root = () if may_install() else ("sudo",)
    environment = ("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8")
    settings = ("-q", "-o", f"DPkg::Lock::Timeout={_WAIT_S}")
    try:
        run([*root, *environment, "apt-get", *settings, *command], on_line=on_line)
    except ProgramFailed as error:
        error.hint = "apt-get says what is wrong. Mend that, then run torpor setup again."
        raise


def _is_known(package: Package) -> bool:
    try:
        return bool(run(["apt-cache", "--no-all-versions", "show", package.name]))
    except ProgramFailed:
        return False


def _counted(progress: Progress) -> Callable[[str], None]:
    """Reads what apt-get prints, and says how far it is."""
    total, done = 0, 0

    def on_line(line: str) -> None:
        nonlocal total, done
        if found := _TOTAL.search(line):
            total = 2 * int(found.group(1))  # each is unpacked, then set up
        elif found := _DONE.match(line):
            done += 1
            what = f"{found.group(1).lower()} {found.group(2)}"
            progress("packages", what, min(done / total, 1.0) if total else None)

    return on_line
