"""`python3 -S -E -m torpor.guest`, in the directory that holds the package: without arguments as a
machine's first process; with `--fd N --dir PATH [--cgroup PATH] [--network yes]` as an ordinary
process, the link on descriptor N and all files below PATH. With a network it has a network
namespace of its own, as root, and leads all of its addresses to the gateway."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from torpor.guest import boot, settings
from torpor.guest.port import HostGone
from torpor.guest.settings import Settings
from torpor.guest.supervisor import Supervisor


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
            network="--network" in given,
        )
    )


def serve(given: Settings) -> int:
    """Run a supervisor; the exit code, should it end."""
    try:
        if given.machine:
            boot.prepare_machine()
        supervisor = Supervisor(given)
        try:
            supervisor.run()
        except HostGone:
            return 0
        except BaseException:
            supervisor.say_crashed(traceback.format_exc())
            raise
        finally:
            supervisor.end_agent()
    except BaseException:
        # The first process of a machine ends with the machine: say why on its console.
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
