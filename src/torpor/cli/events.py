"""send: events for runs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from torpor.cli.answering import Data, given, user
from torpor.cli.options import Json, RunArg
from torpor.client import Client
from torpor.core.home import Home
from torpor.terminal.screen import say, show_json


def send(
    run: RunArg,
    event: Annotated[str, typer.Argument(metavar="EVENT", show_default=False)],
    data: Data = None,
    id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Your id: sent twice with the same id, it is one event."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send an event to a run that waits for it, or will."""
    client = Client(Home.find())
    value = None if data is None else given(data, lambda: _waiting(client, run, event))
    sent = client.send(run, event, data=value, id=id, by=user())
    if as_json:
        show_json(sent)
    elif sent["again"]:
        say(f"{event}: sent before, at entry {sent['seq']} of its log; nothing was changed")
    elif sent["wait"]:
        say(f"{event}: {sent['run']} has it")
    else:
        say(f"{event}: kept until {sent['run']} waits for it")


def _waiting(client: Client, run: str, event: str) -> dict[str, Any] | None:
    """What waits for the event, if anything does already."""
    waits = client.waits(client.run(run)["id"])
    named = (each for each in waits if (each["kind"], each["prompt"]) == ("event", event))
    return next(named, None)
