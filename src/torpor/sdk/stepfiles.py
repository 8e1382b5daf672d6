"""What steps leave in the run's directory, where there is no machine whose disk has it.

Each process of a run begins with a fresh copy of its project and replays: the agent's own code
writes its files again as it did before, and finds nothing of an earlier life. A step's body is not
run again; so what it did to files is a part of its result. It is kept beside the log, before the
step's end is sent, and done again where the step is replayed.

What a body did is the difference between before and after, less what others wrote meanwhile: a
checkpointer in another thread replays for itself, and a file put under its open connection would be
torn. Who writes what is heard from the interpreter (`sys.addaudithook`); what nobody is heard to
have written, a subprocess's files, say, is the step's.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from torpor.sdk.files import Changes, Mark
from torpor.sdk.operations import inside

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_SQLITE_BESIDE = ("-wal", "-shm", "-journal")
_DONE = "done.json"
# Fewer are looked at as fast as one finds out whether one has to.
_MANY = 200

# By path below the home: the kind of file, and what changes when it is written.
Scan: TypeAlias = dict[str, tuple[int, ...]]


class _Body:
    """One that is running."""

    def __init__(self, before: Scan) -> None:
        self.before = before
        self.threads = set(sys._current_frames())  # others than those are the body's
        self.wrote: set[str] = set()
        self.theirs: set[str] = set()  # what other steps did that have ended since it began


class Listing:
    """What there is below a directory. A project may have thousands of files, and a run thousands
    of steps: many are looked at again only if anything was written since, where that is heard."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._changes: Changes | None = None  # of many
        self._mark: Mark | None = None
        self._found: Scan = {}

    def scan(self) -> Scan:
        """Not to be changed."""
        # Before it is looked at: what comes meanwhile counts for the next.
        mark = None if self._changes is None else self._changes.mark()
        if self._changes is None or mark != self._mark or not self._changes.sees_all:
            self._mark, self._found = mark, dict(_scan(self._home))
        elif self._is_mapped():
            self._found = dict(_scan(self._home))
        if self._changes is None and len(self._found) >= _MANY and sys.platform == "linux":
            self._changes = Changes([self._home])
        return self._found

    def _is_mapped(self) -> bool:
        """Whether this process may write to a file without anybody hearing of it."""
        with open("/proc/self/maps", errors="surrogateescape") as maps:  # noqa: PTH123
            return any(self._home in line and line.split(None, 2)[1][1::2] == "ws" for line in maps)


class StepFiles:
    def __init__(self, home: str, kept: str) -> None:
        """`home` is the run's directory; what steps do is in the directory `kept`. Listens from now
        on, until the process ends."""
        self._home, self._kept = os.path.realpath(home), kept
        self._listing = Listing(self._home)
        self._others: set[str] = set()  # what was written outside of any step
        self._bodies: dict[str, _Body] = {}
        self._own_thread: int | None = None  # in which files are put back
        sys.addaudithook(self._hear)

    def begin(self, op: str) -> None:
        # What an earlier body of it did, in its origin's log or before a crash, is not this one's.
        shutil.rmtree(self._directory(op), ignore_errors=True)
        self._bodies[op] = _Body(self._listing.scan())

    def end(self, op: str) -> None:
        """Keep what the body did. Raises OSError."""
        body = self._over(op)
        if body is None:
            return
        after = self._listing.scan()
        running = (each.wrote for each in self._bodies.values())
        theirs = self._others.union(body.theirs, *running)
        changed = [
            path
            for path in body.before.keys() | after.keys()
            if body.before.get(path) != after.get(path)
            and (path in body.wrote or path not in theirs)
        ]
        if changed:
            self._keep(self._directory(op), sorted(changed), after)

    def forget(self, op: str) -> None:
        """Its body was cut off."""
        self._over(op)

    def _over(self, op: str) -> _Body | None:
        """The body, which runs no more. What it wrote is not what others did that still run."""
        body = self._bodies.pop(op, None)
        if body is not None:
            self._is_anothers(body.wrote)
        return body

    def _is_anothers(self, paths: Iterable[str]) -> None:
        for each in list(self._bodies.values()):
            each.theirs.update(paths)

    def replay(self, op: str) -> None:
        """Do again what the body did. Raises OSError."""
        directory = self._directory(op)
        try:
            with open(os.path.join(directory, _DONE)) as file:  # noqa: PTH118, PTH123
                done: dict[str, Any] = json.load(file)
        except FileNotFoundError:
            return
        self._is_anothers(done)
        self._own_thread = threading.get_ident()
        try:
            for path, how in done.items():
                self._put(os.path.join(self._home, path), directory, how)  # noqa: PTH118
        finally:
            self._own_thread = None

    def _directory(self, op: str) -> str:
        name = hashlib.sha256(op.encode()).hexdigest()[:32]
        return os.path.join(self._kept, name)  # noqa: PTH118

    def _keep(self, directory: str, changed: list[str], after: Scan) -> None:
        fresh = f"{directory}.new"
        for each in (fresh, directory):  # of a body that was cut off
            shutil.rmtree(each, ignore_errors=True)
        os.makedirs(fresh)  # noqa: PTH103
        done: dict[str, Any] = {}
        for number, path in enumerate(changed):
            source = os.path.join(self._home, path)  # noqa: PTH118
            mode = after[path][0] if path in after else 0
            if not mode:
                done[path] = None
            elif stat.S_ISDIR(mode):
                done[path] = {"directory": stat.S_IMODE(mode)}
            elif stat.S_ISLNK(mode):
                done[path] = {"link": os.readlink(source)}  # noqa: PTH115
            else:
                done[path] = {"file": f"{number}"}
                shutil.copy2(source, os.path.join(fresh, f"{number}"))  # noqa: PTH118
        with open(os.path.join(fresh, _DONE), "w") as file:  # noqa: PTH118, PTH123
            json.dump(done, file)
        for name in (*os.listdir(fresh), ""):  # noqa: PTH208
            _sync(os.path.join(fresh, name))  # noqa: PTH118
        os.rename(fresh, directory)  # noqa: PTH104
        _sync(self._kept)

    def _put(self, path: str, directory: str, how: dict[str, Any] | None) -> None:
        if how is not None and "directory" in how:
            os.makedirs(path, mode=how["directory"], exist_ok=True)  # noqa: PTH103
            return
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.lexists(path):
            os.unlink(path)  # noqa: PTH108
        if how is not None:
            os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
            if "link" in how:
                os.symlink(how["link"], path)  # noqa: PTH211
            else:
                shutil.copy2(os.path.join(directory, how["file"]), path)  # noqa: PTH118

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = args
            if flags & _WRITES or (isinstance(mode, str) and not {*"wax+"}.isdisjoint(mode)):
                self._wrote(path)
        elif event == "sqlite3.connect":
            self._wrote(args[0], *_SQLITE_BESIDE)
        elif event == "os.rename":
            self._wrote(args[0])
            self._wrote(args[1])
        elif event in ("os.remove", "os.mkdir", "os.rmdir"):
            self._wrote(args[0])

    def _wrote(self, path: Any, *beside: str) -> None:
        thread = threading.get_ident()
        if thread == self._own_thread or not isinstance(path, (str, bytes, os.PathLike)):
            return
        name = os.path.relpath(os.path.realpath(os.fsdecode(path)), self._home)
        if name.startswith(os.pardir):
            return
        step = inside.get()
        bodies = list(self._bodies.items())
        wrote = [
            body.wrote
            for op, body in bodies
            if (step is None and thread not in body.threads) or (step is not None and step.op == op)
        ]
        for each in wrote or [self._others]:
            each |= {name, *(f"{name}{more}" for more in beside)}


def _sync(path: str) -> None:
    """What counts as recorded is there after a power cut (rule 1)."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _scan(home: str, below: str = "") -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        with os.scandir(os.path.join(home, below)) as found:  # noqa: PTH118
            entries = list(found)
    except OSError:  # it has gone meanwhile
        return
    for entry in entries:
        try:
            stats = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        path, mode = f"{below}{entry.name}", stats.st_mode
        if stat.S_ISDIR(mode):
            yield path, (mode,)
            yield from _scan(home, f"{path}/")
        elif stat.S_ISREG(mode) or stat.S_ISLNK(mode):
            yield path, (mode, stats.st_ino, stats.st_size, stats.st_mtime_ns, stats.st_ctime_ns)
