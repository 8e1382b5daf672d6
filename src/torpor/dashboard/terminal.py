"""What a program wrote for a terminal, as lines of styled text. Pure.

Kept are colours, bold and their like, and what progress bars do: a carriage return, a backspace and
the erasing of a line. All else that steers a terminal is dropped. A page has no styles but its own
(`guard`), and is light or dark: of the millions of colours six hues and grey remain, which can be
read on both.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from torpor.web import words

_HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")  # 60° each
_NAMES = (None, "red", "green", "yellow", "blue", "magenta", "cyan", None)
_CUBE = (0, 95, 135, 175, 215, 255)
_GREY_MAX = 0.2  # of saturation
_GREY = range(80, 180)  # darker and lighter is as all text is
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)(?P<given>[0-?]*)[ -/]*(?P<end>[@-~])"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]).*?(?:\x07|\x1b\\|\x9c|$)"  # titles, links, …
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*$"  # cut off
    r"|\x1b[ -/]*[0-~]?"
    r"|(?P<moves>[\r\b])"
    r"|\x07"
    r"|(?P<text>[^\x1b\x07\r\b\x90\x98\x9b\x9d-\x9f]+)"
)


@dataclass(frozen=True)
class Style:
    ink: str | None = None
    ground: str | None = None
    bold: bool = False
    faint: bool = False
    italic: bool = False
    underline: bool = False
    strike: bool = False
    inverse: bool = False

    @property
    def classes(self) -> str:
        """As torpor.css has them. On a ground of its own, text is as all text is."""
        named = [each for each in _FLAGS if getattr(self, each)]
        if self.inverse:
            return " ".join(named)
        if self.ground is not None:
            named.append(f"on-{self.ground}")
        elif self.ink is not None:
            named.append(self.ink)
        return " ".join(named)


PLAIN = Style()
_FLAGS = ("bold", "faint", "italic", "underline", "strike", "inverse")
_ON = {1: "bold", 2: "faint", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
_OFF = {
    22: ("bold", "faint"),
    23: ("italic",),
    24: ("underline",),
    27: ("inverse",),
    29: ("strike",),
}


@dataclass(frozen=True)
class Piece:
    text: str
    style: Style = PLAIN


Line = tuple[Piece, ...]


def lines(text: str) -> list[Line]:
    """What a terminal would show; styles go on from line to line."""
    found, style = [], PLAIN
    for each in text.removesuffix("\n").split("\n"):
        line, style = _line(each.rstrip("\r"), style)
        found.append(line)
    return found


def bare(line: Line) -> str:
    return "".join(piece.text for piece in line)


Chunk = tuple[str, str]  # a stream, and what was written to it


def interleaved(chunks: Iterable[Chunk]) -> list[tuple[str, Line]]:
    """The lines of several streams, in the order in which they were written."""
    found = []
    for stream, same in groupby(chunks, key=lambda chunk: chunk[0]):
        found += [(stream, line) for line in lines("".join(text for _, text in same))]
    return found


def last_of(chunks: Sequence[Chunk], most: int) -> Sequence[Chunk]:
    """The last chunks that have `most` characters together; at least one."""
    taken = 0
    for at in reversed(range(len(chunks))):
        taken += len(chunks[at][1])
        if taken > most:
            return chunks[min(at + 1, len(chunks) - 1) :]
    return chunks


def _line(text: str, style: Style) -> tuple[Line, Style]:
    cells: list[tuple[str, Style]] = []
    at = 0
    for found in _SEQUENCE.finditer(text):
        if (written := found["text"]) is not None:
            fresh = [(char, style) for char in words.plain(written)]
            cells[at : at + len(fresh)] = fresh
            at += len(fresh)
        elif found["moves"] == "\r":
            at = 0
        elif found["moves"] == "\b":
            at = max(0, at - 1)
        elif found["end"] == "m":
            style = _styled(style, found["given"])
        elif found["end"] == "K":
            _erase(cells, at, found["given"])
    return tuple(_pieces(cells)), style


def _pieces(cells: list[tuple[str, Style]]) -> Iterator[Piece]:
    for style, same in groupby(cells, key=lambda cell: cell[1]):
        yield Piece("".join(char for char, _ in same), style)


def _erase(cells: list[tuple[str, Style]], at: int, how: str) -> None:
    if how in ("", "0"):
        del cells[at:]
    elif how in ("1", "2"):
        upto = at + 1 if how == "1" else len(cells)
        cells[:upto] = [(" ", PLAIN)] * min(upto, len(cells))


def _styled(style: Style, given: str) -> Style:
    """`style` as a sequence changes it: `1;31`, `38;5;208`, `38:2::255:0:0`."""
    numbers = _numbers(given)
    for number in numbers:
        if number == 0:
            style = PLAIN
        elif number in _ON:
            style = _switched(style, True, _ON[number])
        elif number in _OFF:
            style = _switched(style, False, *_OFF[number])
        elif number in (38, 48):
            style = _coloured(style, number - 38, _extended(numbers))
        elif 30 <= number <= 37 or 40 <= number <= 47:
            style = _coloured(style, number // 40 * 10, _NAMES[number % 10])
        elif 90 <= number <= 97 or 100 <= number <= 107:
            bright = "grey" if number % 10 == 0 else _NAMES[number % 10]
            style = _coloured(style, number // 100 * 10, bright)
        elif number in (39, 49):
            style = _coloured(style, number - 39, None)
    return style


def _switched(style: Style, on: bool, *flags: str) -> Style:
    changed: dict[str, Any] = dict.fromkeys(flags, on)
    return replace(style, **changed)


def _coloured(style: Style, ground: int, colour: str | None) -> Style:
    return replace(style, ground=colour) if ground else replace(style, ink=colour)


def _numbers(given: str) -> Iterator[int]:
    if not given:
        yield 0
    for part in given.split(";"):
        named = part.split(":")
        if len(named) > 5:  # with a colour space, which nobody has
            del named[2]
        if named[0] == "4" and named[1:] == ["0"]:
            named = ["24"]
        elif named[0] == "4":  # how it is underlined
            named = ["4"]
        for each in named:
            yield int(each) if each.isascii() and each.isdecimal() and len(each) < 9 else 0


def _extended(numbers: Iterator[int]) -> str | None:
    """The hue of what follows 38 or 48."""
    match next(numbers, None):
        case 5:
            return _indexed(next(numbers, 0))
        case 2:
            return _hue(next(numbers, 0), next(numbers, 0), next(numbers, 0))
    return None


def _indexed(n: int) -> str | None:
    if n < 16:
        return "grey" if n == 8 else _NAMES[n % 8]
    if n < 232:
        n -= 16
        return _hue(_CUBE[n // 36], _CUBE[n // 6 % 6], _CUBE[n % 6])
    return _hue(*[8 + 10 * (n - 232)] * 3)


def _hue(red: int, green: int, blue: int) -> str | None:
    parts = [min(each, 255) / 255 for each in (red, green, blue)]
    hue, saturation, value = colorsys.rgb_to_hsv(*parts)
    if saturation < _GREY_MAX or value < _GREY_MAX:
        return "grey" if max(red, green, blue) in _GREY else None
    return _HUES[round(hue * 6) % 6]
