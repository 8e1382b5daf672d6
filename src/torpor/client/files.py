"""What a client gives with a run: a file or bytes, read in pieces, never whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import BinaryIO, TypeAlias

from torpor.core.errors import Invalid, NotFound
from torpor.core.runfiles import FILE_BYTES_MAX

_PIECE_BYTES = 1 << 20

Given: TypeAlias = str | PathLike[str] | bytes  # a path, or the content itself


@dataclass(frozen=True)
class Content:
    """As it was when it was looked at."""

    given: Given
    digest: str
    size: int

    @classmethod
    def of(cls, given: Given) -> Content:
        """Reads all of it. Raises NotFound, Invalid."""
        from blake3 import blake3  # takes longer to load than most commands take

        if isinstance(given, bytes):
            return cls(given, blake3(given).hexdigest(), len(given))
        digest, size = blake3(), 0
        with _open(given) as file:
            for piece in _pieces(file, given):
                digest.update(piece)
                size += len(piece)
                if size > FILE_BYTES_MAX:  # one that grows, or is no file at all
                    raise _too_large(given, size)
        return cls(given, digest.hexdigest(), size)

    def pieces(self) -> Iterator[bytes]:
        """As many bytes as it has. Raises Invalid if it has others by now."""
        if isinstance(self.given, bytes):
            yield self.given
            return
        left = self.size
        with _open(self.given) as file:
            for piece in _pieces(file, self.given):
                left -= len(piece)
                if left < 0:
                    break
                yield piece
        if left:
            raise Invalid(
                f"{self.given} changed while it was being uploaded",
                hint="Repeat the command when nothing writes to the file.",
            )


def size_of(path: Path) -> int:
    """Of a file that can be given. Raises NotFound, Invalid."""
    with _open(path) as file:
        size = file.seek(0, 2)
    if size > FILE_BYTES_MAX:
        raise _too_large(path, size)
    return size


def _open(given: str | PathLike[str]) -> BinaryIO:
    path = Path(given)
    try:
        if path.exists() and not path.is_file():
            kind = "a directory" if path.is_dir() else "no regular file"
            raise Invalid(f"{path} is {kind}: only files can be given to a run")
        return path.open("rb")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        raise Invalid(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _pieces(file: BinaryIO, given: str | PathLike[str]) -> Iterator[bytes]:
    try:
        while piece := file.read(_PIECE_BYTES):
            yield piece
    except OSError as error:
        raise Invalid(f"cannot read {Path(given)}: {error.strerror or error}") from error


def _too_large(given: str | PathLike[str], size: int) -> Invalid:
    return Invalid(
        f"{Path(given)} has {size:,} bytes; a file of a run can have at most {FILE_BYTES_MAX:,}",
        hint="Split it, or let the agent fetch it.",
    )
