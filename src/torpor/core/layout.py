"""Where things are in an agent's directory that its author did not put there.

A project is installed: what of it Python looks up, and is no file of the project, is in `SITE`,
below the directory that has the project's files. One file that stands alone has none of that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

OURS = ".torpor"  # what is in it is the same for all versions whose project is installed alike
SITE = ".torpor/site"  # a directory of modules, with .pth files, as a virtual environment has one
PATHS = f"{SITE}/project.pth"  # names the directories of the project that have modules
PROGRAMS = ".torpor/bin"


def installed(app: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """What programs of the agent in `app` have in their environment: that, and what leads to the
    modules and programs of a project that is installed there."""
    site = app / SITE
    if not site.is_dir():
        return dict(environment)
    before = environment.get("PYTHONPATH", "")
    return {
        **environment,
        "PYTHONPATH": os.pathsep.join([*map(str, roots(app)), before, str(site)]),
        "PATH": os.pathsep.join([str(app / PROGRAMS), environment.get("PATH", os.defpath)]),
    }


def roots(app: Path) -> list[Path]:
    """The directories that the project's .pth file names, in their order."""
    try:
        lines = (app / PATHS).read_text().splitlines()
    except OSError:
        return []
    named = [Path(os.path.normpath(app / SITE / line)) for line in lines if line]  # noqa: PTH
    return [each for each in named if each.is_dir()]
