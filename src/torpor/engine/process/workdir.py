"""The directory that a run's process begins in: a copy of its project, its own.

Nothing that a run writes reaches what was deployed or another run's copy: files are copied, or
cloned where the file system shares blocks until they are written (reflinks), never linked. Times
are kept, so that what Python compiled of them once holds for all copies.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

_FICLONE = 0x40049409  # ioctl_ficlone(2)


def lay_out(project: Path, directory: Path) -> None:
    """Make `directory`, which is not there yet, a copy of `project`. Raises OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(project, directory, copy_function=_copy)


def keep_compiled(directory: Path, project: Path) -> None:
    """What Python compiled of a copy is of use to all that follow; each directory of it appears
    whole, or not at all."""
    for cache in directory.rglob("__pycache__"):
        target = project / cache.relative_to(directory)
        if target.exists() or not target.parent.is_dir():  # of what the agent wrote
            continue
        with (
            contextlib.suppress(OSError),
            tempfile.TemporaryDirectory(prefix=".tmp-", dir=project.parent) as fresh,
        ):
            shutil.copytree(cache, Path(fresh) / cache.name).rename(target)


def _copy(source: str, target: str) -> str:
    if not _clone(source, target):
        shutil.copyfile(source, target)
    shutil.copystat(source, target)
    return target


def _clone(source: str, target: str) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    with open(source, "rb") as read, open(target, "wb") as written:  # noqa: PTH123
        try:
            fcntl.ioctl(written.fileno(), _FICLONE, read.fileno())
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
