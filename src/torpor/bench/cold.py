"""Making files cold, so that their next reader waits for the disk."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the kernel's page cache (posix_fadvise(2), DONTNEED). Pages that are not on
    the disk yet, or that a process maps, stay: sync files first, and end what maps them."""
    for path in paths:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def files_below(*directories: Path) -> list[Path]:
    return [path for top in directories for path in top.rglob("*") if path.is_file()]
