"""A traceback as people read it: the agent's own frames, those of libraries folded. Pure.

Python wrote it, in the agent's process, so it may be anything: what is no frame is text, and stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

_FRAME = re.compile(r'(?P<in>[ |]*)File "(?P<file>[^"]*)", line (?P<line>\d+)(?:, in (?P<of>.*))?$')
_MARKS = re.compile(r"[\s~^]+$")
# Where agents work: in a machine, and as a process of the host.
_OWN = re.compile(r".*/run_[0-9a-z]+/work/|/home/agent/work/")
_INSTALLED = re.compile(
    r".*/(?:site|dist)-packages/|.*/lib/python3[^/]*/"
    r"|/opt/deps/|.*/run_[0-9a-z]+/deps/|/torpor/(?=torpor/)"
    r"|(?:.*/src)?/(?=torpor/(?:sdk|guest|replay|wire|core)/)"
)
_HEADS = (
    "Traceback (most recent call last):",
    "Exception Group Traceback (most recent call last):",
)


@dataclass(frozen=True)
class Frame:
    """`library`: what it is of, if it is not the agent's own."""

    file: str
    line: int
    function: str
    code: str
    library: str = ""


@dataclass(frozen=True)
class Part:
    """Frames that follow one another, all the agent's own or all of libraries; or else text."""

    frames: tuple[Frame, ...] = ()
    text: str = ""

    @property
    def libraries(self) -> str:
        return ", ".join(dict.fromkeys(frame.library for frame in self.frames if frame.library))


@dataclass(frozen=True)
class Traceback:
    parts: tuple[Part, ...]

    @property
    def frames(self) -> int:
        return sum(len(part.frames) for part in self.parts)

    @property
    def where(self) -> Frame | None:
        """The agent's own frame that is nearest to what went wrong."""
        own = [frame for part in self.parts for frame in part.frames if not frame.library]
        return own[-1] if own else None


def read(text: str) -> Traceback:
    parts: list[Part] = []
    for _, same in groupby(_read(text.splitlines()), key=_kind):
        together = list(same)
        frames = tuple(each for each in together if isinstance(each, Frame))
        text = "\n".join(each for each in together if isinstance(each, str)).strip("\n")
        parts += [Part(frames, text)] if frames or text else []
    return Traceback(tuple(parts))


def _kind(each: Frame | str) -> tuple[bool, bool]:
    return isinstance(each, Frame), isinstance(each, Frame) and bool(each.library)


def _read(lines: list[str]) -> Iterator[Frame | str]:
    at = 0
    while at < len(lines):
        found = _FRAME.match(lines[at])
        at += 1
        if found is None:
            if lines[at - 1].strip(" +|") not in _HEADS:
                yield lines[at - 1]
            continue
        code = []
        while at < len(lines) and lines[at].startswith(found["in"] + "  "):
            if not _MARKS.match(lines[at].lstrip(" |")):
                code.append(lines[at].lstrip(" |"))
            at += 1
        file, library = _file(found["file"])
        number = int(found["line"][:9])
        yield Frame(file, number, found["of"] or "", "\n".join(code), library)


def _file(path: str) -> tuple[str, str]:
    """As people know it, and the library that it is of."""
    if (found := _INSTALLED.match(path)) is not None:
        short = path[found.end() :]
        return short, short.partition("/")[0].removesuffix(".py")
    if path.startswith("<frozen "):
        return path, "Python"
    found = _OWN.match(path)
    return path[found.end() :] if found else path, ""
