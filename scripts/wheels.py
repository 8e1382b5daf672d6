"""Whether the most used packages with compiled parts import in a machine: `scripts/wheels.txt`.

Each is installed as a deployment installs it, and imported in the root file system of machines,
with neither network nor anything of this host. That runs on this host's processor, not in a
machine, which under emulation would take hours; what is asked is whether the loader finds each
library, and it is the same loader, the same libraries and the same wheels. What only a machine can
tell (its kernel, its processor) a dozen of them show in tests/e2e/test_e2e_wheels.py.

    .venv/bin/python scripts/wheels.py [--home DIR] [NAME…]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.image import recipe
from torpor.image.build import ensure_image
from torpor.image.deps import GUEST, install
from torpor.image.tools import run

LIST = Path(__file__).with_suffix(".txt")
LIMIT_S = 300
# $1: the root, $2: the modules, the rest: what is run in it.
ENTER = f"""\
set -eu
root=$1 modules=$2
shift 2
mount --bind "$modules" "$root{recipe.DEPS_DIRECTORY}"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
exec chroot "$root" env -i -C /tmp HOME=/tmp LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \\
    PATH={recipe.DEPS_DIRECTORY}/bin:/usr/local/bin:/usr/bin:/bin "$@"
"""


@dataclass(frozen=True)
class Check:
    requirement: str
    command: tuple[str, ...]


def read_list(text: str) -> list[Check]:
    """A line each: a requirement, and the module that is imported or, after $, what is run."""
    checks = []
    for line in text.splitlines():
        requirement, *what = line.partition("#")[0].split() or [""]
        if what:
            imports = (recipe.PYTHON_PATH, "-c", f"import {what[0]}")
            checks.append(Check(requirement, tuple(what[1:]) if what[0] == "$" else imports))
    return checks


def try_one(check: Check, root: Path, modules: Path) -> str | None:
    """What went wrong."""
    try:
        install((check.requirement,), modules, GUEST)
    except TorporError as error:
        return error.message
    inside = ["sh", "-c", ENTER, "enter", str(root), str(modules), *check.command]
    namespaces = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork"]
    done = subprocess.run(
        [*namespaces, *inside], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    return None if done.returncode == 0 else (done.stderr.strip() or f"code {done.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, help="data directory; default: $TORPOR_HOME")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these packages")
    arguments = parser.parse_args()
    home = Home(arguments.home.absolute()) if arguments.home else Home.find()
    checks = [
        check
        for check in read_list(LIST.read_text())
        if not arguments.names or Requirement(check.requirement).name in arguments.names
    ]
    image = ensure_image(home.create())
    failed = 0
    with tempfile.TemporaryDirectory(prefix="torpor-wheels-") as directory:
        root = Path(directory) / "root"
        run(["fsck.erofs", f"--extract={root}", str(image.root)])
        for check in checks:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(dir=directory) as modules:
                problem = try_one(check, root, Path(modules))
            print("ok    " if problem is None else "FAILED", check.requirement, end=" ")
            print(f"({time.monotonic() - began:.1f} s)", flush=True)
            if problem is not None:
                failed += 1
                print(*problem.splitlines()[-3:], sep="\n", flush=True)
    print(f"{len(checks) - failed} of {len(checks)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
