"""An agent's files, watched: what is there after each save, once it is whole.

Editors save by writing twice, by renaming, through swap files. So a change is only a reason to look
again, after a moment in which nothing else happens; and what counts is what `read_agent` then
gives. What cannot be read is looked at once more before it is reported: it may be half of a save.

Directories are watched, not files: those that have files of the agent's, those above them in its
project, and those directly below, where new ones may come to be.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeAlias

from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid, TorporError
from torpor.project.reading import project_of, read_agent

Seen: TypeAlias = AgentSource | TorporError
# A save is over once nothing has happened for so long.
_QUIET_MS, _NEVER_QUIET_MS = 20, 200
_HALF_SAVED_S = 0.1
# What no event has told of, on a file system that tells none, is found after so long.
_LOOK_MS = 1000
_DIRECTORIES_MAX = 1000


def look(path: Path) -> Seen:
    try:
        return read_agent(path)
    except TorporError as error:
        return error
    except OSError as error:  # what is there comes and goes
        return Invalid(f"{path} cannot be read: {error}")


def watch(path: Path, seen: Seen, changed: Callable[[Seen], None]) -> None:
    """Call `changed` with what the agent at `path` has become, each time it is something else than
    it was; at first it was `seen`. Does not return."""
    directories = _directories(path, seen)
    while True:
        # Nobody says from when on events come: the first thing to come is looked at in any case.
        stamp = None
        for event in _events(directories):
            now = _stamp(directories)
            if not event and now == stamp:
                continue
            stamp, found = now, look(path)
            if isinstance(found, TorporError):
                time.sleep(_HALF_SAVED_S)
                found = look(path)
            if not same(found, seen):
                seen = found
                changed(found)
            before, directories = directories, _directories(path, found) or directories
            if directories != before:
                break


def _events(directories: list[Path]) -> Iterator[bool]:
    """True when something has happened in these; False now and then."""
    from watchfiles import watch as events  # takes a moment to load

    # The system watches no more of them, or one is gone.
    with contextlib.suppress(OSError, RuntimeError):
        for each in events(
            *directories,
            watch_filter=None,
            debounce=_NEVER_QUIET_MS,
            step=_QUIET_MS,
            rust_timeout=_LOOK_MS,
            yield_on_timeout=True,
            recursive=False,
            ignore_permission_denied=True,
        ):
            yield bool(each)
    while True:
        time.sleep(_LOOK_MS / 1000)
        yield False


def same(one: Seen, other: Seen) -> bool:
    if isinstance(one, AgentSource) and isinstance(other, AgentSource):
        return one == other
    return type(one) is type(other) and str(one) == str(other)


def root_of(path: Path, seen: Seen) -> Path:
    """The directory that the agent's files are relative to; where it cannot be read, the likely
    one."""
    at = path.absolute()
    if isinstance(seen, AgentSource):
        for above in (at, *at.parents):
            if (entry := above / seen.entry).is_file() and (at in (entry, above) or at.is_dir()):
                return above
    with contextlib.suppress(TorporError):  # a pyproject.toml that is wrong, too
        if (root := project_of(path)) is not None:
            return root
    return at if at.is_dir() else at.parent


def _directories(path: Path, seen: Seen) -> list[Path]:
    base = root_of(path, seen)
    names = seen.files if isinstance(seen, AgentSource) else ()
    own = {base, *(base / above for name in names for above in PurePosixPath(name).parents)}
    below = {each for directory in own for each in _below(directory)}
    there = sorted(each for each in own | below if each.is_dir())
    return there[:_DIRECTORIES_MAX]


def _below(directory: Path) -> Iterator[Path]:
    try:
        yield from (
            each
            for each in directory.iterdir()
            if each.is_dir() and not each.name.startswith((".", "__"))
        )
    except OSError:  # it is gone, or not ours to read
        return


def _stamp(directories: list[Path]) -> dict[str, tuple[int, int]]:
    found = {}
    for directory in directories:
        with contextlib.suppress(OSError):  # it is gone, or not ours to read
            for each in os.scandir(directory):
                with contextlib.suppress(OSError):
                    stat = each.stat()
                    found[each.path] = stat.st_mtime_ns, stat.st_size
    return found
