"""Compiling Python files for the guest beforehand: under emulation it would take the guest long.

Only a Python of the guest's version can do it. If this host has none the guest does it itself.
Nothing that is compiled is run. The .pyc files are marked as never to be checked against their
source, whose times are fixed in the image.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from torpor.image.recipe import PYTHON, PYTHON_VERSION


def compile_tree(directory: Path, shown_as: str) -> bool:
    """Compile every module below `directory`; tracebacks will say `shown_as` instead.

    False if it was left to the guest. A file that is no valid Python (packages carry some) is
    left out.
    """
    if sys.version_info[:2] == PYTHON:
        python: str | None = sys.executable
    else:
        python = shutil.which(f"python{PYTHON_VERSION}")
    if python is None:
        return False
    command = [python, "-I", "-m", "compileall", "-qq", "-j", "0"]
    command += ["--invalidation-mode", "unchecked-hash"]
    command += ["-s", str(directory), "-p", shown_as, str(directory)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return True
