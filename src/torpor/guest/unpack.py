"""The agent's files, from the tar that the host sends."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, cast

from torpor.core.errors import Invalid


class _Held:
    """A file of bytes that are in memory already, and may be many: none is copied but what is
    read."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._view = memoryview(data)
        self._at = 0

    def read(self, size: int = -1) -> bytes:
        end = len(self._view) if size < 0 else self._at + size
        piece = bytes(self._view[self._at : end])
        self._at += len(piece)
        return piece

    def seek(self, at: int) -> int:
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        self._view.release()


def unpack(tar: bytes | bytearray, directory: Path, uid: int | None) -> None:
    """Write the regular files and directories of `tar` below `directory`, for the user `uid`.
    Raises Invalid for anything else in it: links, devices, paths that lead elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    held = _Held(tar)
    try:
        with tarfile.open(fileobj=cast(IO[bytes], held)) as archive:
            for member in archive:
                _unpack_member(archive, member, directory, uid)
    except tarfile.TarError as error:
        raise Invalid(f"the agent's files are not a tar archive: {error}") from error
    finally:
        held.close()


def _unpack_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, uid: int | None
) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise Invalid(f"the agent's files hold {member.name!r}, which is no plain file below them")
    created: list[Path] = []
    target = directory
    for part in path.parts if member.isdir() else path.parts[:-1]:
        target = target / part
        if not target.is_dir():
            target.mkdir()
            created.append(target)
    if member.isfile():
        target = target / path.name
        content = archive.extractfile(member)
        with target.open("wb") as written:
            if content is not None:
                shutil.copyfileobj(content, written)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
        created.append(target)
    if uid is not None:
        for each in created:
            os.chown(each, uid, uid)
