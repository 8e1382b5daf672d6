"""The Debian packages that torpor needs on a host: the one list of them. Ubuntu's have these names.

A package is here if what it brings is, wherever that came from: so other distributions count, too.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torpor.image.recipe import KEYRING
from torpor.image.tools import PATH


class Package(NamedTuple):
    name: str
    brings: str  # a program, or a file by its path

    def is_here(self) -> bool:
        if self.brings.startswith("/"):
            return Path(self.brings).exists()
        return shutil.which(self.brings, path=PATH) is not None


# Without these no machine runs, and no image is built.
HOST = (
    Package("qemu-system-x86", "qemu-system-x86_64"),
    Package("fuse3", "fusermount3"),
    Package("mmdebstrap", "mmdebstrap"),
    Package("debian-archive-keyring", KEYRING),
    Package("dpkg", "dpkg-deb"),
    Package("erofs-utils", "mkfs.erofs"),
    Package("e2fsprogs", "mkfs.ext4"),
    Package("lz4", "lz4"),
    Package("zstd", "zstd"),
)
# Root needs no user namespace to build an image in.
ORDINARY_USER = (Package("uidmap", "newuidmap"),)
# What compiles the binding of FUSE (pyfuse3); of no use once that is here.
COMPILER = (
    Package("gcc", "gcc"),
    Package("pkg-config", "pkg-config"),
    Package("libfuse3-dev", "/usr/include/fuse3/fuse.h"),
    Package("python3-dev", f"{sysconfig.get_path('include')}/Python.h"),
)
# What tests of torpor itself need.
TESTS = (
    Package("cpio", "cpio"),
    Package("chromium", "chromium"),
    # Clients that are tried as they are.
    Package("git", "git"),
    Package("curl", "curl"),
    Package("nodejs", "node"),
    Package("postgresql-client", "psql"),
)


def needed(*, compiler: bool, tests: bool = False) -> tuple[Package, ...]:
    user = () if os.geteuid() == 0 else ORDINARY_USER
    return (*HOST, *user, *(COMPILER if compiler else ()), *(TESTS if tests else ()))


def absent(packages: Iterable[Package]) -> list[Package]:
    return [each for each in packages if not each.is_here()]


def apt_line(packages: Iterable[Package]) -> str:
    """What a person types to have them."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    return f"{sudo}apt-get install {' '.join(each.name for each in packages)}"
