"""Whether this host has what machines need. Each check says what is absent, and what brings it."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

from torpor.core.checks import Check, attempt
from torpor.core.home import Home
from torpor.image.build import Image, find_image
from torpor.pager.launch import BINDING, FUSE_DEVICE, has_binding, require_device
from torpor.setup import apt, packages
from torpor.setup.system import system

SUBORDINATE = (Path("/etc/subuid"), Path("/etc/subgid"))


def checks(home: Home, known: Image | None = None) -> list[Check]:
    """All of them, in the order in which a person would mend them. On Linux only. `known` is the
    image, if it was just found or built: to look at it takes reading all of it."""
    return [
        system(),
        debian_packages(),
        *subordinate_ids(),
        attempt("FUSE", _device),
        binding(),
        image(home, known),
    ]


def debian_packages() -> Check:
    lacking = absent_packages()
    if not lacking:
        return Check("packages", True, "QEMU, FUSE and what builds images are here")
    detail = "absent: " + ", ".join(each.brings for each in lacking)
    by_hand = f"Install what brings them; Debian's names: {' '.join(p.name for p in lacking)}."
    return Check(
        "packages", False, detail, packages.apt_line(lacking) if apt.is_here() else by_hand
    )


def absent_packages() -> list[packages.Package]:
    return packages.absent(packages.needed(compiler=not has_binding()))


def subordinate_ids() -> Iterator[Check]:
    """An image is built as root of a user namespace, for which an ordinary user needs a range of
    ids; Debian gives one to each user that adduser makes."""
    uid = os.geteuid()
    user = _user(uid)
    if uid == 0 or all(_has_range(path, {user, str(uid)}) for path in SUBORDINATE):
        return
    detail = f"{user} has no range of ids in /etc/subuid and /etc/subgid: it builds no image"
    ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    yield Check("user ids", False, detail, f"sudo usermod {ranges} {user}")


def binding() -> Check:
    if not has_binding():
        detail = f"the Python package {BINDING} is absent"
        hint = "torpor setup compiles it, as does pip install 'torpor[machines]'."
        return Check("binding of FUSE", False, detail, hint)
    return Check("binding of FUSE", True, f"the Python package {BINDING} is here")


def image(home: Home, known: Image | None = None) -> Check:
    if (found := known or find_image(home)) is None:
        later = "torpor setup builds it (a minute, a network, 1 GiB for a while)."
        return Check("guest image", False, f"none for this version in {home.images}", later)
    return Check("guest image", True, f"{found.digest} in {found.directory}")


def _device() -> str:
    require_device()
    return f"{FUSE_DEVICE} opens"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container may run as a number
        return str(uid)


def _has_range(path: Path, names: set[str]) -> bool:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    return any(line.partition(":")[0] in names for line in lines)
