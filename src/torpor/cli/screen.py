"""Where things are shown: data on stdout, talk on stderr, JSON when a program reads."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

# Wide enough that nothing is cut where no terminal sets the width.
_PIPE_WIDTH = 400

err = Console(stderr=True, highlight=False)


def show(renderable: RenderableType) -> None:
    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    Console(width=width, highlight=False).print(renderable)


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """One remark on stderr; never markup, for it may hold an agent's words."""
    err.print(Text(text, style=style), soft_wrap=True)


def complain(message: str, hint: str = "") -> None:
    err.print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)
    if hint:
        err.print(Text(hint, style="dim"), soft_wrap=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Columns without lines; the last one gives way when the terminal is narrow."""
    drawn = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for head in heads[:-1]:
        drawn.add_column(head, no_wrap=True)
    drawn.add_column(heads[-1], overflow="ellipsis", no_wrap=True)
    for row in rows:
        drawn.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return drawn


def facts(rows: Sequence[tuple[str, str | Text]]) -> Table:
    """What is known of one thing, a name and a value a line."""
    drawn = Table.grid(padding=(0, 2, 0, 0))
    for name, value in rows:
        drawn.add_row(Text(name, "dim"), value if isinstance(value, Text) else Text(value))
    return drawn


_STATE_STYLE = {
    "queued": "yellow",
    "running": "cyan",
    "suspended": "blue",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
}


def state(name: str) -> Text:
    return Text(name, style=_STATE_STYLE.get(name, ""))
