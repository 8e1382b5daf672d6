"""Options and arguments that many commands have."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from torpor.cli import complete
from torpor.engine import registry


def _engine(name: str | None) -> str | None:
    if name is not None and name not in registry.NAMES:
        known = ", ".join(map(repr, registry.NAMES))
        raise typer.BadParameter(f"{name!r} is not one of {known}")
    return name


# How options take the name of an engine.
ENGINE: dict[str, Any] = {
    "callback": _engine,
    "metavar": f"<{'|'.join(registry.NAMES)}>",
    "autocompletion": complete.engines,
}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArg = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="A run's id, or the beginning of one.",
        autocompletion=complete.runs,
    ),
]
