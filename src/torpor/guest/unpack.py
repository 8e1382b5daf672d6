"""The agent's files, from the tar that the host sends."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path, PurePosixPath

from torpor.model.errors import Invalid


def unpack(tar: bytes, directory: Path, uid: int | None) -> None:
    """Write the regular files and directories of `tar` below `directory`, for the user `uid`.
    Raises Invalid for anything else in it: links, devices, paths that lead elsewhere."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
            for member in archive:
                _unpack_member(archive, member, directory, uid)
    except tarfile.TarError as error:
        raise Invalid(f"the agent's files are not a tar archive: {error}") from error


def _unpack_member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, directory: Path, uid: int | None
) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or not (member.isfile() or member.isdir()):
        raise Invalid(f"the agent's files hold {member.name!r}, which is no plain file below them")
    made: list[Path] = []
    target = directory
    for part in path.parts if member.isdir() else path.parts[:-1]:
        target = target / part
        if not target.is_dir():
            target.mkdir()
            made.append(target)
    if member.isfile():
        target = target / path.name
        content = archive.extractfile(member)
        target.write_bytes(content.read() if content is not None else b"")
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
        made.append(target)
    if uid is not None:
        for each in made:
            os.chown(each, uid, uid)
