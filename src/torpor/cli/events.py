"""send: events for runs."""

from __future__ import annotations

from typing import Annotated

import typer

from torpor.cli.answering import user
from torpor.cli.options import Json, RunArg
from torpor.cli.screen import say, show_json
from torpor.cli.waits import Data, parsed
from torpor.client import Client
from torpor.model.home import Home


def send(
    run: RunArg,
    event: Annotated[str, typer.Argument(metavar="EVENT", show_default=False)],
    data: Data = "null",
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Yours: sent twice with the same, it is one event."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send a run an event that it waits for, or will."""
    client = Client(Home.find())
    sent = client.send(run, event, data=parsed(data), id=id, by=user())
    if as_json:
        show_json(sent)
    elif sent["again"]:
        say(f"{event}: sent before, at {sent['seq']} of its log; nothing has changed")
    elif sent["wait"]:
        say(f"{event}: {sent['run']} has it")
    else:
        say(f"{event}: kept until {sent['run']} waits for it")
