"""requirements.txt: what of it is a dependency of an agent.

The format is pip's: https://pip.pypa.io/en/stable/reference/requirements-file-format/. Machines get
wheels from PyPI and nothing else, so what names another source is refused rather than replaced by
what has the same name there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from torpor.core.errors import Invalid

_COMMENT = re.compile(r"(^|\s+)#.*$")
# Of a line of its own, or behind a requirement: says nothing of what is to be installed.
_PASSED_OVER = ("--hash", "--require-hashes", "--only-binary", "--prefer-binary", "--no-binary")


def read_requirements(path: Path, root: Path) -> list[str]:
    """The requirements in the file and in those that it names by `-r`. Raises Invalid."""
    return list(_read(path, root, ()))


def _read(path: Path, root: Path, within: tuple[Path, ...]) -> Iterator[str]:
    real = path.resolve()
    shown = real.relative_to(root.resolve()) if real.is_relative_to(root.resolve()) else path
    if real in within:
        raise Invalid(f"{shown} includes itself with -r")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise Invalid(f"{shown} cannot be read: {why}") from error
    for number, line in _lines(text):
        where = f"{shown}, line {number}"
        option, _, value = line.replace("=", " ", 1).partition(" ")
        if option in ("-r", "--requirement"):
            yield from _read(path.parent / value.strip(), root, (*within, real))
        elif line.startswith("-r") and not line.startswith("--"):
            yield from _read(path.parent / line[2:].strip(), root, (*within, real))
        elif line in (".", "-e .", "--editable ."):
            continue  # the project itself: it is there
        elif option in _PASSED_OVER:
            continue
        elif line.startswith("-"):
            raise Invalid(
                f"{where}: {line!r} is an option that torpor does not know",
                hint="Dependencies are wheels from PyPI. Leave the line out, or keep a file of the "
                'agent\'s own: [project] dynamic = ["dependencies"], or [project] dependencies.',
            )
        else:
            yield _requirement(re.split(r"\s+--", line, maxsplit=1)[0].strip(), where)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Those that say anything, without comments; one that goes on with a backslash is one."""
    held, first = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        first = first or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            held += line[:-1]
            continue
        if whole := _COMMENT.sub("", held + line).strip():
            yield first, whole
        held, first = "", 0
    if held.strip():
        yield first, held.strip()


def _requirement(line: str, where: str) -> str:
    try:
        requirement = Requirement(line)
    except InvalidRequirement as error:
        if "/" in line or line.endswith((".whl", ".tar.gz", ".zip")):
            raise Invalid(
                f"{where}: {line!r} is not on PyPI",
                hint="Dependencies are wheels from PyPI. Put the code into the project: its "
                "directories are importable.",
            ) from error
        raise Invalid(f"{where}: {line!r} is not a requirement: {error}") from error
    if requirement.url:
        raise Invalid(
            f"{where}: {requirement.name} comes from {requirement.url}",
            hint="Dependencies are wheels from PyPI. Name one of those, or put the code into the "
            "project.",
        )
    return line
