"""Bringing what a host of machines lacks. What is here already is left alone."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Iterator

from packaging.requirements import Requirement

from torpor.core.errors import Missing
from torpor.core.home import Home
from torpor.image.build import Image, Progress, ensure_image, find_image
from torpor.image.deps import uv
from torpor.image.tools import ProgramFailed, run
from torpor.pager.launch import BINDING, has_binding
from torpor.setup import apt, packages
from torpor.setup.checks import absent_packages, debian_packages, subordinate_ids


def make_ready(home: Home, progress: Progress) -> Image:
    """Bring packages, the binding of FUSE, the guest image: whatever of these is absent.
    The image is returned.

    For a host that `system` allows. What cannot be installed, a device, is left to `checks` to say.
    Raises HostError."""
    if lacking := absent_packages():
        if not apt.is_here() or not apt.may_install():
            check = debian_packages()
            raise Missing(check.detail, hint=f"{check.hint}\nThen, again: torpor setup")
        apt.install(lacking, progress)
        if left := packages.absent(lacking):
            raise Missing(f"not here, though apt-get installed it: {left[0].brings}")
    if not has_binding():
        progress("binding", f"compiling {BINDING}, the binding of FUSE (half a minute)", None)
        _install_binding()
    if (found := find_image(home)) is not None:
        return found
    for check in subordinate_ids():
        raise Missing(check.detail, hint=f"{check.hint}\nThen, again: torpor setup")
    return ensure_image(home.create(), progress)


def _install_binding() -> None:
    """Into the environment that torpor itself is in."""
    command = [*uv(), "pip", "install", "--color", "never", "--no-progress"]
    try:
        run([*command, "--python", sys.executable, *_requirements("machines")])
    except ProgramFailed as error:
        error.hint = f"In the environment of {sys.executable}: pip install 'torpor[machines]'"
        raise
    importlib.invalidate_caches()


def _requirements(extra: str) -> Iterator[str]:
    """What `torpor[extra]` asks for beyond torpor."""
    for text in importlib.metadata.requires("torpor") or ():
        requirement = Requirement(text)
        marker = requirement.marker
        if marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""}):
            yield f"{requirement.name}{requirement.specifier}"
