"""Files that commands write: whole or not at all, and over nothing that is there unasked."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from torpor.core.errors import Conflict, HostError, Invalid

Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing files.")]


def check_free(target: Path, *, force: bool) -> None:
    """Before anything is fetched. At a terminal somebody may say yes. Raises Conflict, Invalid."""
    if target.is_dir():
        raise Invalid(f"{target} is a directory", hint="Give the path of a file.")
    if not target.parent.is_dir():
        raise Invalid(f"there is no directory {target.parent}")
    if force or not os.path.lexists(target):
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise Conflict(f"{target} exists already", hint="Use --force to overwrite it.")
    typer.confirm(f"{target} is there already. Overwrite it?", abort=True, err=True)


def save(target: Path, chunks: Iterator[bytes], *, private: bool = False) -> int:
    """Write beside the target, then rename; its size. What is `private`, nobody else may read.
    Raises HostError."""
    first = next(chunks, b"")  # before a file is made: it may be refused
    part: Path | None = None
    try:
        fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:64]}.")
        part = Path(name)
        with os.fdopen(fd, "wb") as out:
            out.write(first)
            out.writelines(chunks)
        if not private:
            part.chmod(0o666 & ~_umask())
        size = part.stat().st_size
        part.replace(target)
        part = None
    except OSError as error:
        raise HostError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return size


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def to_stdout(chunks: Iterator[bytes]) -> None:
    out = typer.get_binary_stream("stdout")
    for chunk in chunks:
        out.write(chunk)
    out.flush()
