"""Files of a run: where they may be, how large, and how they get to their place.

    client ──upload──► content, by its digest ──start──► run: path → digest
                                                          │ each time its agent begins
                                                          ▼
                                          the agent's working directory

A path is relative to the working directory. Checked where a run is asked for, before there is one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from torpor.core.errors import Invalid

FILE_BYTES_MAX = 1 << 30
FILES_BYTES_MAX = 4 << 30  # of a run, together
FILES_MAX = 1000
PATH_CHARS_MAX = 1024
PATHS_CHARS_MAX = 128 * 1024  # of all paths: they stand in the run's log
NAME_BYTES_MAX = 255  # of one part of a path, as file systems have it
# An input's bytes that are a file's: read whole, into the agent's memory.
INPUT_BYTES_MAX = 64 << 20
# An upload that no run has taken goes after so long.
UNTAKEN_S = 86400.0
# The key of an input that stands for the bytes of a file of the run.
FILE = "$file"


@dataclass(frozen=True)
class RunFile:
    """A file of a run. `digest` is the BLAKE3 of its content."""

    path: str
    digest: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"path": self.path, "digest": self.digest, "bytes": self.bytes}


def check_path(path: str) -> str:
    """Raises Invalid unless it leads to a place below the working directory, written plainly."""
    if not path or len(path) > PATH_CHARS_MAX:
        raise Invalid(
            f"a file's path must have 1 to {PATH_CHARS_MAX:,} characters, not {len(path):,}"
        )
    pure = PurePosixPath(path)
    if pure.is_absolute():
        problem = "is absolute"
    elif ".." in pure.parts:
        problem = "leads out of it"
    elif str(pure) != path or not pure.parts:
        problem = "is not written plainly"
    elif any(ord(char) < 32 or ord(char) == 127 for char in path):
        problem = "has a control character"
    else:
        try:
            longest = max(len(part.encode()) for part in pure.parts)
        except UnicodeEncodeError:
            problem = "is not UTF-8"
        else:
            if longest <= NAME_BYTES_MAX:
                return path
            problem = f"has a name of more than {NAME_BYTES_MAX} bytes"
    raise Invalid(
        f"a run's file cannot be at {path[:200]!a}: the path {problem}",
        hint="Give a path relative to the agent's working directory, such as data.csv "
        "or inputs/d.csv.",
    )


def check_paths(paths: Iterable[str]) -> None:
    """That all can be at once. Raises Invalid."""
    known = sorted(check_path(path) for path in paths)
    if len(known) > FILES_MAX:
        raise Invalid(
            f"a run can have at most {FILES_MAX:,} files, not {len(known):,}",
            hint="Give an archive and let the agent unpack it.",
        )
    if sum(map(len, known)) > PATHS_CHARS_MAX:
        raise Invalid(f"the files' paths have more than {PATHS_CHARS_MAX:,} characters together")
    there = set(known)
    if len(there) < len(known):
        twice = next(path for path, after in pairwise(known) if path == after)
        raise Invalid(f"two files would both be at {twice!r}")
    for path in known:
        for parent in PurePosixPath(path).parents:
            if str(parent) in there:
                raise Invalid(f"{str(parent)!r} would be both a file and the directory of {path!r}")


def check_sizes(sizes: Mapping[str, int]) -> int:
    """By path; all together. Raises Invalid."""
    for path, size in sizes.items():
        if size > FILE_BYTES_MAX:
            raise Invalid(
                f"{path} has {size:,} bytes; a file of a run can have at most {FILE_BYTES_MAX:,}",
                hint="Split it, or let the agent fetch it.",
            )
    total = sum(sizes.values())
    if total > FILES_BYTES_MAX:
        raise Invalid(
            f"the files have {total:,} bytes together; a run's files can have at "
            f"most {FILES_BYTES_MAX:,}"
        )
    return total


class Place:
    """A file on its way to its place: not there before it is whole, and instead of what was there.
    Blocks; raises OSError."""

    def __init__(self, root: Path, path: str, uid: int | None = None) -> None:
        """Below `root`, for the user `uid`. Who can write there is not to lead it elsewhere: no
        link is followed."""
        self._uid = uid
        directory = root
        for part in PurePosixPath(path).parts[:-1]:
            directory = directory / part
            if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
                directory.unlink()
            if not directory.exists():
                directory.mkdir()
                self._own(directory)
        self._target = directory / PurePosixPath(path).name
        self._part = directory / f".{self._target.name[:100]}.part"
        with contextlib.suppress(FileNotFoundError):
            self._part.unlink()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd: int | None = os.open(self._part, flags, 0o644)

    def write(self, data: bytes) -> None:
        assert self._fd is not None
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def finish(self) -> None:
        self._close()
        self._own(self._part)
        if self._target.is_dir() and not self._target.is_symlink():
            raise IsADirectoryError(f"{self._target} is a directory")
        self._part.replace(self._target)

    def give_up(self) -> None:
        self._close()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _own(self, path: Path) -> None:
        if self._uid is not None:
            os.chown(path, self._uid, self._uid)
