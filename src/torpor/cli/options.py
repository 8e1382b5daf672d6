"""Options and arguments that many commands have."""

from __future__ import annotations

from typing import Annotated

import typer

from torpor.cli import complete

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunArg = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        help="A run's id, or the start of one.",
        autocompletion=complete.runs,
    ),
]
