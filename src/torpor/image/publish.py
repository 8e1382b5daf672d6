"""How a file or directory appears: at once, whole and durable, or not at all.

Builders of one parent directory take turns (`flock` on its `.lock`), so of two that want the
same name the second finds the first's result. A build happens in a `.tmp-*` directory beside
the result, is synced, then renamed. Whoever holds the lock knows that no other build is alive,
so what `.tmp-*` it finds is rubbish of an interrupted one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torpor.core.errors import Exhausted


@dataclass(frozen=True)
class Workspace:
    """Where a build works, and the lock that programs it starts should inherit."""

    directory: Path
    lock_fd: int


def build_once(
    result: Path,
    build: Callable[[Workspace], Path],
    *,
    waiting: Callable[[], None] = lambda: None,
    damage: Callable[[Path], str] = lambda _: "",
    damaged: Callable[[str], None] = lambda _: None,
    durable: bool = True,
) -> Path:
    """`result`, made by `build` unless it is there.

    `build` returns the file or directory in its workspace that becomes `result`; all else in
    the workspace goes. `waiting` is called if another builder is at work. What is there and is not
    as it should be, says `damage`, is replaced: `damaged` hears why. If that looks at all of it,
    the result need not be `durable`: syncing thousands of files takes long. Raises Exhausted when
    the disk is full, and whatever `build` raises; then all is as it was before.
    """
    if result.exists() and not damage(result):
        return result
    parent = result.parent
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _lock(parent / ".lock", waiting) as lock_fd:
        why = damage(result) if result.exists() else ""
        if result.exists() and not why:
            return result
        for stale in parent.glob(".tmp-*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(prefix=".tmp-", dir=parent) as directory:
            try:
                if why:
                    damaged(why)
                draft = build(Workspace(Path(directory), lock_fd))
                if durable:
                    _sync_tree(draft)
                if why:
                    result.rename(Path(directory) / "before")
                draft.rename(result)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise Exhausted(
                        f"the disk filled up while {result} was being made",
                        hint="Free some space on it.",
                    ) from error
                raise
        if durable:
            _sync(parent)
    return result


@contextlib.contextmanager
def _lock(path: Path, waiting: Callable[[], None]) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _sync_tree(top: Path) -> None:
    for path in (*top.rglob("*"), top):
        _sync(path)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
