"""What stands between fork and QEMU, with other programs in QEMU's place."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from torpor.engine.qemu import launch

LAUNCH = [sys.executable, "-I", "-S", str(Path(launch.__file__))]
DEADLINE_MS = 10_000


def launched(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LAUNCH, str(os.getpid()), *argv], capture_output=True, text=True)


def test_it_becomes_the_program() -> None:
    done = launched("/bin/sh", "-c", 'echo "$@"; echo $0 >&2; exit 7', "zero", "a b", "c")
    assert (done.stdout, done.stderr, done.returncode) == ("a b c\n", "zero\n", 7)


def test_it_dies_with_its_parent() -> None:
    parent = (
        "import os, subprocess, sys\n"
        f"argv = {LAUNCH!r} + [str(os.getpid()), '/bin/sh', '-c', 'echo $$; exec sleep 1000']\n"
        "subprocess.run(argv)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    fd = os.pidfd_open(int(process.stdout.readline()))
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert not poll.poll(0)
    process.kill()
    process.communicate()
    assert poll.poll(DEADLINE_MS), "it outlived its parent"
    os.close(fd)


def test_whose_parent_has_died_before_starts_nothing() -> None:
    done = subprocess.run(
        [*LAUNCH, str(os.getpid() + 1), "/bin/echo", "started"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")


HUGE = """
import mmap
area = mmap.mmap(-1, 4 << 20)
for advice in (mmap.MADV_NOHUGEPAGE, mmap.MADV_DONTNEED, mmap.MADV_HUGEPAGE):
    try:
        area.madvise(advice)
        print("taken")
    except OSError as error:
        print(error.errno)
"""


def test_huge_pages_are_refused_and_nothing_else() -> None:
    done = launched(sys.executable, "-c", HUGE)
    assert done.stdout.split() == ["taken", "taken", "22"], done.stderr
