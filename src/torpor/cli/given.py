"""--file, and `-i KEY=@FILE`: which of this host's files a run is given, and at which places.

    --file data.csv              at data.csv
    --file data/in.csv           at data/in.csv: a path below this directory stays as it is
    --file /tmp/x.csv            at x.csv; so does what is above this directory
    --file data.csv:inputs/d.csv at inputs/d.csv; with a slash at its end, inputs/, in there
    --file data                  a directory: all files in it, at data/…
    -i doc=@report.pdf           at inputs/report.pdf, where the agent takes a Path or bytes

All of it is looked at before anything is deployed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath, PurePosixPath

import typer

from torpor.client.files import size_of
from torpor.core.errors import CallerError, Invalid, NotFound
from torpor.core.runfiles import FILES_MAX, check_paths, check_sizes

INPUTS = "inputs"


class Files:
    """Those of one run: place → the file here."""

    def __init__(self) -> None:
        self.by_place: dict[str, Path] = {}

    @classmethod
    def of_options(cls, options: Iterable[str]) -> Files:
        """As `--file` has them. Raises BadParameter."""
        given = cls()
        for option in options:
            with usage(f"--file {option}"):
                given.add(*_split(option))
        with usage("--file"):
            given.check()
        return given

    def add_input(self, key: str, here: Path) -> str:
        """The file, or directory, that a parameter gets; its place."""
        place = f"{INPUTS}/{_name(here)}"
        if self._taken(place):
            place = f"{INPUTS}/{key}/{_name(here)}"
        self.add(here, place)
        return place

    def add(self, here: Path, place: str) -> None:
        """Raises Invalid, NotFound."""
        found = {place: here}
        if here.is_dir():
            found = {str(PurePosixPath(place, *inner.parts)): here / inner for inner in _in(here)}
        for at, path in found.items():
            if at in self.by_place:
                raise Invalid(
                    f"{self.by_place[at]} and {path} would both be at {at}",
                    hint="Give one of them another place: --file FILE:PLACE",
                )
            size_of(path)
            self.by_place[at] = path

    def check(self) -> None:
        """That a run can have them all. Raises Invalid."""
        check_paths(self.by_place)
        check_sizes({place: size_of(path) for place, path in self.by_place.items()})

    def _taken(self, place: str) -> bool:
        return any(at == place or at.startswith(f"{place}/") for at in self.by_place)


@contextmanager
def usage(option: str) -> Iterator[None]:
    """What is wrong with it is a wrong use of the program."""
    try:
        yield
    except CallerError as error:
        problem = f"{option}: {error.message}"
        raise typer.BadParameter(f"{problem}. {error.hint}" if error.hint else problem) from error


def _split(option: str) -> tuple[Path, str]:
    here, colon, place = option.rpartition(":")
    if not colon or Path(option).exists():
        here, place = option, ""
    if not here:
        raise Invalid("names no file", hint="Write FILE or FILE:PLACE")
    path = Path(here)
    if colon and not place and here != option:
        raise Invalid("names no place", hint="Write FILE or FILE:PLACE")
    if place.endswith("/"):
        place += _name(path)
    return path, str(PurePosixPath(place)) if place else _usual(path)


def _usual(path: Path) -> str:
    """Where a file is put if no place is named."""
    plain = PurePath(os.path.normpath(path))
    return _name(path) if plain.is_absolute() or plain.parts[:1] == ("..",) else plain.as_posix()


def _name(path: Path) -> str:
    return path.name or path.resolve().name


def _in(directory: Path) -> list[PurePath]:
    """All files in a directory, by their paths in it. Raises Invalid."""
    found = sorted(_walk(directory))
    if not found:
        raise Invalid(f"{directory} has no files in it")
    return found


def _walk(directory: Path) -> Iterator[PurePath]:
    count = 0
    for at, directories, names in os.walk(directory, onerror=_unreadable):
        directories.sort()
        linked = [name for name in directories if (Path(at) / name).is_symlink()]
        for name in _files(Path(at), (*names, *linked)):
            count += 1
            if count > FILES_MAX:
                raise Invalid(
                    f"{directory} has more than {FILES_MAX:,} files; that is the limit",
                    hint="Give an archive and let the agent unpack it.",
                )
            yield (Path(at) / name).relative_to(directory)


def _files(at: Path, names: Iterable[str]) -> Iterator[str]:
    for name in names:
        if (at / name).is_dir():
            raise Invalid(
                f"{at / name} is a link to a directory",
                hint="Give that directory separately: --file DIRECTORY:PLACE",
            )
        yield name


def _unreadable(error: OSError) -> None:
    if isinstance(error, FileNotFoundError):
        raise NotFound(f"there is no directory {error.filename}") from error
    raise Invalid(f"cannot read {error.filename}: {error.strerror}") from error
