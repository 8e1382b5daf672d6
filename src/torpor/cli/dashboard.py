"""dashboard: a link to it."""

from __future__ import annotations

import sys
import webbrowser
from typing import Annotated

import typer

from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.client import refuse_remote
from torpor.terminal.screen import say, show_json


def dashboard(
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="A port of 127.0.0.1; by default 7717, or any free one."
        ),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open it in a browser here.")] = False,
    as_json: Json = False,
) -> None:
    """Print a link that opens the dashboard in a browser of this host.

    The link works once, within ten minutes. The browser stays logged in for a week, or until the
    server stops.
    """
    refuse_remote("torpor dashboard")
    link = connect().dashboard(port)
    if as_json:
        show_json(link)
        return
    sys.stdout.write(f"{link['url']}\n")
    if open_ and not webbrowser.open(link["url"]):
        say("no browser was found here")
    say(
        f"From another machine: ssh -L {link['port']}:127.0.0.1:{link['port']} THIS-HOST, then "
        "open the link there.",
        "dim",
    )
