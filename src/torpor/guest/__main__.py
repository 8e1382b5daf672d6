"""`python3 -S -E -m torpor.guest`, in the directory that holds the package: without arguments as a
machine's first process; with `--fd N --dir PATH [--cgroup PATH]` as an ordinary process, the link
on descriptor N and all files below PATH."""

from __future__ import annotations

import sys
from pathlib import Path

from torpor.guest import settings
from torpor.guest.supervisor import serve


def main(arguments: list[str]) -> int:
    if not arguments:
        return serve(settings.machine())
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    cgroup = given.get("--cgroup")
    return serve(
        settings.beside(
            Path(given["--dir"]),
            int(given["--fd"]),
            cgroup=Path(cgroup) if cgroup else None,
        )
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
