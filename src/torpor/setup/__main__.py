"""`python3 -m torpor.setup`: the Debian packages that a clone needs, through sudo if need be.

Of all this only what the standard library can do: a clone has no .venv before it has these, since
one of the packages in that is compiled. `torpor setup` does the rest.
"""

from __future__ import annotations

import os
import shutil
import sys

from torpor.core.errors import TorporError
from torpor.setup import apt, packages


def main() -> int:
    lacking = packages.absent(packages.needed(compiler=True, tests=True))
    lacking = [each for each in lacking if each not in packages.TESTS or apt.has(each)]
    if not lacking:
        return 0
    if not apt.is_here() or (os.geteuid() != 0 and shutil.which("sudo") is None):
        _say(f"Machines will not run before you install: {' '.join(p.name for p in lacking)}")
        return 1
    try:
        apt.install(lacking, lambda _, message, done: None if done else _say(message))
    except TorporError as error:
        _say(f"{error.message}\n{error.hint}")
        return 1
    return 0


def _say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
