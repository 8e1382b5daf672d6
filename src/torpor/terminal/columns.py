"""Columns of text without lines between them: what `ps` and its like show.

In a terminal a line is cut at its edge; elsewhere, where programs read, nothing is cut, wrapped or
filled up with blanks. Drawn here, since rich takes longer to load and to draw 200 rows than all
that leads to them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len, set_cell_size

# A text, or a text and the name of its style, which is one of rich's.
Cell = str | tuple[str, str]

_GAP = "  "
_ELLIPSIS = "…"
_FOLD_MIN = 20
_SGR = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


@dataclass(frozen=True)
class Columns:
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    fold: bool = False  # the last column goes on in the next line, where a line ends

    def draw(self, width: int | None, *, styled: bool) -> str:
        """All lines; None is a width without an end."""
        lines = ("".join(_sgr(cell, styled) for cell in line) for line in self._lines(width))
        return "".join(f"{line}\n" for line in lines)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """Where it is shown among what rich draws."""
        from rich.text import Text

        for line in self._lines(options.max_width if console.is_terminal else None):
            yield Text.assemble(*line, no_wrap=True, overflow="ignore")

    def _lines(self, width: int | None) -> Iterator[list[Cell]]:
        rows = [[(head, "bold") for head in self.heads], *self.rows]
        widths = [max(map(_length, column)) for column in zip(*rows, strict=True)]
        before = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
        if self.fold and width is not None:
            rows = [line for row in rows for line in _folded(row, width - before)]
        for row in rows:
            yield _cut(_without_end(_aligned(row, widths)), width)


def _aligned(row: Sequence[Cell], widths: Sequence[int]) -> list[Cell]:
    line: list[Cell] = []
    for cell, width in zip(row, widths, strict=True):
        line += [cell, " " * (width - _length(cell)) + _GAP]
    return line


def _without_end(line: list[Cell]) -> list[Cell]:
    """Without the blanks that it ends with."""
    while line and not (text := _text(line[-1]).rstrip()):
        line.pop()
    return [*line[:-1], _with(line[-1], text)] if line else line


def _cut(line: list[Cell], width: int | None) -> list[Cell]:
    if width is None or sum(map(_length, line)) <= width:
        return line
    room, kept = width - len(_ELLIPSIS), list[Cell]()
    for cell in line:
        kept.append(_with(cell, set_cell_size(_text(cell), min(room, _length(cell)))))
        room -= _length(cell)
        if room <= 0:
            break
    return [*kept, _ELLIPSIS]


def _folded(row: Sequence[Cell], room: int) -> list[list[Cell]]:
    *others, last = row
    parts = textwrap.wrap(_text(last), max(room, _FOLD_MIN)) or [""]
    first: list[Cell] = [*others, _with(last, parts[0])]
    return [first, *([*[""] * len(others), _with(last, part)] for part in parts[1:])]


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell[0]


def _with(cell: Cell, text: str) -> Cell:
    return text if isinstance(cell, str) else (text, cell[1])


def _length(cell: Cell) -> int:
    text = _text(cell)
    return len(text) if text.isascii() else cell_len(text)


def _sgr(cell: Cell, styled: bool) -> str:
    if isinstance(cell, str) or not styled or cell[1] not in _SGR:
        return _text(cell)
    return f"\x1b[{_SGR[cell[1]]}m{cell[0]}\x1b[0m"
