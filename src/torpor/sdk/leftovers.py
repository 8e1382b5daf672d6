"""What a run wrote into its working directory and did not publish: kept when its agent ends, failed
or not, as artifacts of the end (`torpor.core.artifacts.FILE`). What is not kept is named.

The directory is looked through when the agent begins and when it ends. What was there before, the
project's files and those given with the run, counts only if it was changed; what was published
counts only if it was changed after that; what tools leave behind (`_JUNK`) does not count.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from torpor.core import artifacts
from torpor.core.limits import NAME_MAX
from torpor.sdk import arguments, files
from torpor.sdk.artifacts import File, State, given, published, send, state_of
from torpor.sdk.operations import Operation
from torpor.sdk.runtime import Runtime
from torpor.wire import names

# So many are sent before the first of them is waited for.
_AHEAD = 16
_NAMED_MAX = 5
_JUNK_DIRECTORIES = frozenset(
    (
        *("__pycache__", ".git", ".hg", ".svn", ".venv", "venv", "node_modules"),
        *(".cache", ".ipynb_checkpoints", ".hypothesis", ".matplotlib"),
        *(".mypy_cache", ".pytest_cache", ".ruff_cache"),
    )
)
_JUNK = (".pyc", ".pyo", ".swp", "~")
_JUNK_FILES = frozenset((".DS_Store", "Thumbs.db"))


class _Written(NamedTuple):
    path: str  # below the directory
    size: int


class Leftovers:
    def __init__(self) -> None:
        self._directory = ""
        self._before: dict[str, State] = {}
        self._mark: files.Mark | None = None  # as long as it is that, nothing was written

    def look(self) -> None:
        """What is in the working directory now was there before the agent. Again when the run
        begins costs nothing in a machine whose template has looked, unless there is more."""
        mark, directory = files.mark(), os.path.realpath(os.curdir)
        if mark is None or (mark, directory) != (self._mark, self._directory):
            self._before = dict(_scan(directory))
        self._mark, self._directory = mark, directory

    def keep(self, runtime: Runtime) -> None:
        """The agent has ended."""
        if self._mark is not None and files.mark() == self._mark:
            return
        written = self._written()
        if not written:
            return
        kept: list[_Written] = []
        left: list[_Written] = []
        free = artifacts.KEPT_BYTES_MAX
        for each in sorted(written, key=lambda each: (each.size, each.path)):
            fits = each.size <= free and len(kept) < artifacts.KEPT_FILES_MAX
            if fits and not artifacts.name_fault(each.path):
                kept.append(each)
                free -= each.size
            else:
                left.append(each)
        for at in range(0, len(kept), _AHEAD):
            left += self._keep(runtime, kept[at : at + _AHEAD])
        if left:
            data: dict[str, Any] = {"message": _words(left), "level": "warning", "data": {}}
            runtime.say(names.NOTE, kind="log", data=data)

    def _keep(self, runtime: Runtime, some: list[_Written]) -> list[_Written]:
        """Those that could not be."""
        sent: list[tuple[_Written, Operation]] = []
        left = []
        for each in some:
            media_type = artifacts.guess_media_type(each.path)
            details = {"name": each.path, "media_type": media_type, "kept": True}
            with ExitStack() as opened:
                try:
                    file = File(os.path.join(self._directory, each.path), opened)  # noqa: PTH118
                    file.check()
                except (OSError, ValueError):  # gone, or not for us to read
                    left.append(each)
                    continue
                begun = runtime.begin(artifacts.FILE, each.path, arguments.digest(), details)
                send(runtime, begun, file.pieces())
                sent.append((each, begun))
        for each, operation in sent:
            try:
                given(each.path, operation.block())
            except (OSError, ValueError):
                left.append(each)
        return left

    def _written(self) -> list[_Written]:
        return [
            _Written(path, state[0])
            for path, state in _scan(self._directory)
            if self._before.get(path) != state
            and published(os.path.join(self._directory, path)) != state  # noqa: PTH118
        ]


def _words(left: list[_Written]) -> str:
    shown = ", ".join(f"{_named(each)} ({each.size:,} bytes)" for each in left[:_NAMED_MAX])
    more = f" and {len(left) - _NAMED_MAX:,} more" if len(left) > _NAMED_MAX else ""
    return (
        f"not kept of what the agent wrote: {shown}{more}. At the end at most "
        f"{artifacts.KEPT_BYTES_MAX >> 20} MiB in {artifacts.KEPT_FILES_MAX} files are; publish "
        "what you need with torpor.artifact(path)"
    )


def _named(each: _Written) -> str:
    """A name need not be text, nor short."""
    return (each.path if each.path.isprintable() else ascii(each.path))[:NAME_MAX]


def _scan(directory: str, below: str = "") -> Iterator[tuple[str, State]]:
    """The files in it, by their paths below it."""
    try:
        with os.scandir(os.path.join(directory, below)) as found:  # noqa: PTH118
            entries = list(found)
    except OSError:  # it has gone meanwhile
        return
    for entry in entries:
        name = entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                if name not in _JUNK_DIRECTORIES:
                    yield from _scan(directory, f"{below}{name}/")
            elif name not in _JUNK_FILES and not name.endswith(_JUNK):
                stats = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(stats.st_mode):
                    yield f"{below}{name}", state_of(stats)
        except OSError:
            continue
