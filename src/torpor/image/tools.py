"""Running the programs that do the work, and saying clearly when one is absent or fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torpor.core.errors import Exhausted, HostError, Missing

_LINES_KEPT = 1000
_LINES_SHOWN = 12

# Where programs are looked for: Debian keeps some, as mkfs.*, out of an ordinary user's PATH.
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))


class ProgramFailed(HostError):
    """A program ended with an error. `said` is what it printed, the end of it in the message."""

    def __init__(self, program: str, code: int, output: str) -> None:
        end = "\n".join(output.splitlines()[-_LINES_SHOWN:])
        super().__init__(f"{program} failed with code {code}:\n{end}")
        self.output = output


def require(*programs: str) -> None:
    """Raise Missing unless all are here: asked before the work starts, not in its middle."""
    absent = [p for p in programs if shutil.which(p, path=PATH) is None]
    if absent:
        raise Missing(
            f"not installed on this host: {', '.join(absent)}",
            hint="torpor setup installs what machines need.",
        )


def run(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None] | None = None,
    environment: Mapping[str, str] | None = None,
    lock_fd: int | None = None,
    cwd: Path | None = None,
) -> str:
    """Run it, give each line it says to `on_line`, return all but the oldest of them.

    `lock_fd` is inherited: the lock that it holds lives as long as anything that builds under
    it. Raises Exhausted if the disk was full, ProgramFailed if it failed otherwise.
    """
    kept: deque[str] = deque(maxlen=_LINES_KEPT)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=cwd,
        env={**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8", **(environment or {})},
        pass_fds=() if lock_fd is None else (lock_fd,),
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                kept.append(line.rstrip())
                if on_line is not None:
                    on_line(line.rstrip())
        except BaseException:
            process.terminate()  # and wait for it, on leaving the block
            raise
    output = "\n".join(kept)
    if process.returncode == 0:
        return output
    if "No space left on device" in output:
        raise Exhausted(
            f"the disk filled up while {command[0]} was running",
            hint="Free some space (about 1 GB is needed in $TMPDIR and the data directory).",
        )
    raise ProgramFailed(command[0], process.returncode, output)
