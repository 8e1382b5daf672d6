"""Files out of a run's working directory: `tar` beside its agent, unpacked here.

A machine is not trusted: what it sends is unpacked so that nothing gets anywhere else (tarfile's
filter `data`), into a directory of its own, and put into its place when all of it is there.
"""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from torpor.cli import saving
from torpor.client import Client
from torpor.core.errors import Conflict, GuestError, HostError, Invalid, NotFound

_CHUNK = 1 << 18
_STDOUT, _STDERR = 1, 2
_TROUBLE_CHARS = 500
# What `tar` says of files that changed while it read them: they are there.
_DIFFERS = 1


def fetch(client: Client, run: str, path: str, destination: str, *, force: bool) -> list[Path]:
    """Copy a file or a directory; "" is all. What was written. Raises NotFound if it is not there,
    Conflict, Invalid, GuestError, HostError."""
    with _archive(client, run, path) as archive:
        first = archive.next()
        if first is None:
            raise NotFound(f"{path or 'its directory'} does not exist")
        if first.isfile():
            return _file(archive, first, path, destination, force=force)
        if not first.isdir():
            raise Invalid(f"{path} is neither a file nor a directory")
        if destination == "-":
            raise Invalid(f"{path or 'all'} is a directory", hint="Name a file in it.")
        return _directory(archive, path, destination, force=force)


def target_of(destination: str, name: str) -> Path:
    """The file that is written: in a directory, under its own name."""
    target = Path(destination)
    return target / PurePosixPath(name).name if target.is_dir() else target


def _file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, destination: str, *, force: bool
) -> list[Path]:
    opened = archive.extractfile(member)
    assert opened is not None
    chunks = iter(lambda: opened.read(_CHUNK), b"")
    if destination == "-":
        saving.to_stdout(chunks)
        return []
    target = target_of(destination, path)
    saving.check_free(target, force=force)
    saving.save(target, chunks)
    return [target]


def _directory(archive: tarfile.TarFile, path: str, destination: str, *, force: bool) -> list[Path]:
    """As `cp -r` does: as a new directory of this name; or, all there is, into one."""
    root = Path(destination)
    if root.is_dir() and path:
        root = root / PurePosixPath(path).name
    if not root.parent.is_dir():
        raise Invalid(f"there is no directory {root.parent}")
    if root.exists() and not root.is_dir():
        raise Invalid(f"{root} is a file, and {path} a directory")
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".torpor-") as fresh:
        try:
            archive.extractall(fresh, filter=_harmless)
        except OSError as error:
            raise HostError(f"cannot unpack {path} to {root.parent}: {error}") from error
        top = Path(fresh, *PurePosixPath(path).parts)
        return _merge(top, root, force=force)


def _harmless(member: tarfile.TarInfo, directory: str) -> tarfile.TarInfo | None:
    """Files and directories, and links within; others are left out."""
    try:
        return tarfile.data_filter(member, directory)
    except tarfile.FilterError:
        return None


def _merge(top: Path, root: Path, *, force: bool) -> list[Path]:
    inside = [(Path(at), inner, names) for at, inner, names in os.walk(top)]
    found = [at / name for at, inner, names in inside for name in (*names, *_links(at, inner))]
    moves = [(each, root / each.relative_to(top)) for each in found]
    taken = [target for _, target in moves if os.path.lexists(target)]
    if taken and not force:
        more = f" and {len(taken) - 1:,} more" if len(taken) > 1 else ""
        raise Conflict(f"{taken[0]}{more} exists already", hint="Use --force to overwrite it.")
    for at, _, _ in inside:
        (root / at.relative_to(top)).mkdir(exist_ok=True)
    for source, target in moves:
        if target.is_dir() and not target.is_symlink():
            raise Conflict(f"{target} is a directory here, and a file in the run")
        shutil.move(source, target)
    return [target for _, target in moves]


def _links(at: Path, names: list[str]) -> list[str]:
    """Of these directories, those that are only links to some."""
    return [name for name in names if (at / name).is_symlink()]


@contextmanager
def _archive(client: Client, run: str, path: str) -> Iterator[tarfile.TarFile]:
    """The stream of it, read to its end. Raises NotFound, GuestError."""
    # A name that begins with a dash is none of its options.
    request: dict[str, Any] = {"command": ["tar", "-cf", "-", "--", path or "."]}
    request |= {"dir": None, "env": {}, "user": "agent", "stdin": False}
    with client.exec(run, request) as command:
        written = _Written(command.events())
        try:
            archive = tarfile.open(fileobj=written, mode="r|")  # noqa: SIM115
        except tarfile.TarError as error:
            written.finish(path)
            raise GuestError(f"the run did not send {path or 'it'} as a tar archive") from error
        with archive:
            try:
                yield archive
            except tarfile.TarError as error:
                written.finish(path)
                raise GuestError(f"{path or 'it'} is incomplete: {error}") from error
        written.finish(path)


class _Written(io.RawIOBase):
    """What the command writes to stdout, to be read once."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._left = b""
        self._trouble = b""
        self.code: int | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and (event := next(self._events, None)) is not None:
            if not isinstance(event, tuple):
                self.code = event.get("code", self.code)
            elif event[0] == _STDOUT:
                self._left = event[1]
            else:
                self._trouble = (self._trouble + event[1])[-_TROUBLE_CHARS:]
        count = min(len(buffer), len(self._left))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count

    def finish(self, path: str) -> None:
        """Read the rest. Raises NotFound, GuestError if the command failed."""
        while self.read(_CHUNK):
            pass
        if self.code in (0, _DIFFERS):
            return
        error_text = self._trouble.decode(errors="replace").strip()
        if "No such file" in error_text or "Cannot stat" in error_text:
            raise NotFound(f"there is no {path} in its working directory")
        raise GuestError(f"{path or 'it'} could not be read: {error_text or 'tar failed'}")
