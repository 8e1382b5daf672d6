"""The directory that a run's process begins in: a copy of its project, its own.

Nothing that a run writes reaches what was deployed or another run's copy: files are copied, or
cloned where the file system shares blocks until they are written (reflinks), never linked. Times
are kept: a replay finds the same.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
from pathlib import Path

_FICLONE = 0x40049409  # ioctl_ficlone(2)
_COPY_BYTES = 1024 * 1024


def lay_out(project: Path, directory: Path) -> None:
    """Make `directory`, which is not there yet, a copy of `project`. Raises OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    _copy_tree(str(project), str(directory), sys.platform == "linux")


def _copy_tree(project: str, directory: str, clone: bool) -> bool:
    """Whether files still may be cloned: what one file system does not do, it does for none."""
    os.mkdir(directory)  # noqa: PTH102
    with os.scandir(project) as found:
        for each in found:
            target = os.path.join(directory, each.name)  # noqa: PTH118
            if each.is_dir(follow_symlinks=False):
                clone = _copy_tree(each.path, target, clone)
            else:
                clone = _copy(each.path, target, clone)
    return clone


def _copy(source: str, target: str, clone: bool) -> bool:
    read = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        facts = os.fstat(read)
        written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            clone = clone and _clone(read, written)
            if not clone:
                while data := os.read(read, _COPY_BYTES):
                    while data:
                        data = data[os.write(written, data) :]
            os.fchmod(written, stat.S_IMODE(facts.st_mode))
            os.utime(written, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        finally:
            os.close(written)
    finally:
        os.close(read)
    return clone


def _clone(source: int, target: int) -> bool:
    import fcntl

    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # another file system, or one that shares nothing
        return False
    return True


def clear(directory: Path) -> None:
    """Remove it, whatever a run has made of it."""
    if not directory.exists():
        return
    shutil.rmtree(directory, ignore_errors=True)
    if directory.exists():  # directories that nobody may write to
        for at, inner, _ in os.walk(directory):
            for each in (at, *(os.path.join(at, name) for name in inner)):  # noqa: PTH118
                with contextlib.suppress(OSError):
                    os.chmod(each, 0o700)  # noqa: PTH101
        shutil.rmtree(directory, ignore_errors=True)
