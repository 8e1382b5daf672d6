"""Where things are shown: data on stdout, talk on stderr, JSON when a program reads.

rich draws what is more than columns, and is loaded only then: commands that many call often need
none of it.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from torpor.terminal.columns import Cell, Columns

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    err: Console

# Wider than any line: nothing is cut or wrapped where no terminal sets the width.
_PIPE_WIDTH = 1 << 20


def __getattr__(name: str) -> Any:
    if name == "err":
        return _stderr()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _stderr() -> Console:
    return _console(stderr=True)


def show(what: RenderableType | Columns) -> None:
    terminal = sys.stdout.isatty()
    if isinstance(what, Columns):
        width = shutil.get_terminal_size().columns if terminal else None
        styled = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        sys.stdout.write(what.draw(width, styled=styled))
    elif terminal:
        _console().print(what)
    else:
        drawn = io.StringIO()
        _console(file=drawn, width=_PIPE_WIDTH).print(what)
        sys.stdout.writelines(f"{line.rstrip()}\n" for line in drawn.getvalue().splitlines())
    sys.stdout.flush()


def _console(**settings: Any) -> Console:
    from rich.console import Console

    return Console(highlight=False, **settings)


def show_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def say(text: str, style: str = "") -> None:
    """One remark on stderr; never markup, for it may hold an agent's words."""
    _say((text, style))


@contextmanager
def progress(first: str) -> Iterator[Callable[[str, str, float | None], None]]:
    """Shows how far something is: one moving line in a terminal, else a line for each stage."""
    if not _stderr().is_terminal:
        stages: set[str] = set()

        def tell(stage: str, message: str, fraction: float | None) -> None:
            if stage not in stages:
                stages.add(stage)
                say(message)

        yield tell
        return
    from torpor.web import words

    def update(stage: str, message: str, fraction: float | None) -> None:
        share = "" if fraction is None else f" {fraction:.0%}"
        # Square brackets would be markup to rich.
        status.update(words.line(message).replace("[", r"\[") + share)

    with _stderr().status(first) as status:
        yield update


def complain(message: str, hint: str = "") -> None:
    _say(("error: ", "bold red"), (message, ""))
    if hint:
        _say((hint, "dim"))


def _say(*parts: tuple[str, str]) -> None:
    from rich.text import Text

    _stderr().print(Text.assemble(*parts), soft_wrap=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[Cell]], *, fold: bool = False) -> Columns:
    """Columns without lines; the last one gives way when the terminal is narrow, or is folded."""
    return Columns(heads, rows, fold)


def facts(rows: Sequence[tuple[str, Any]]) -> Table:
    """What is known of one thing, a name and a value, a text or rich's, a line."""
    from rich.table import Table
    from rich.text import Text

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


def state(name: str) -> tuple[str, str]:
    """With its style."""
    return name, _STATE_STYLE.get(name, "")
