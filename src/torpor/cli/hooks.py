"""hooks: what others may send in, and what our own webhooks are signed with."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.terminal.screen import facts, say, show, show_json, table
from torpor.web import words

hooks = typer.Typer(
    help="Manage webhooks: messages from other systems, and torpor's own.", no_args_is_help=True
)

HookArg = Annotated[
    str,
    typer.Argument(
        metavar="HOOK", show_default=False, help="A hook's id, or the beginning of one."
    ),
]


@hooks.command()
def create(
    agent: Annotated[
        str,
        typer.Argument(
            metavar="AGENT", show_default=False, help="A deployed agent: FILE, FILE:NAME or NAME."
        ),
    ],
    event: Annotated[
        str | None,
        typer.Option(
            metavar="EVENT", help="Each message is this event, for the run that --run-at finds."
        ),
    ] = None,
    run_at: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Where a message names its run, such as data.metadata.run."
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="PARAMETER", help="Pass the whole message as this parameter."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let others start runs of an agent, or send events to them, with signed messages."""
    created = connect().create_hook(agent, event=event, run_at=run_at, into=into)
    if as_json:
        show_json(created)
        return
    show(facts([("hook", created["id"]), ("url", created["url"]), ("secret", created["secret"])]))
    say(
        "The secret is shown only this once. Messages must be signed as Standard "
        "Webhooks specifies.",
        "dim",
    )


@hooks.command(name="list")
def list_hooks(
    all: Annotated[bool, typer.Option("--all", help="Include revoked ones.")] = False,
    as_json: Json = False,
) -> None:
    """List hooks."""
    found = connect().hooks(all=all)
    if as_json:
        show_json(found)
    elif not found:
        say("no hooks")
    else:
        now = time.time()
        heads = ("HOOK", "AGENT", "DOES", "MADE", "STATE", "URL")
        show(table(heads, [_row(hook, now) for hook in found]))


def _row(hook: dict[str, Any], now: float) -> tuple[str, ...]:
    does = "starts a run" if hook["event"] is None else f"sends {hook['event']}"
    state = "open" if hook["revoked_at"] is None else "revoked"
    age = words.ago(hook["created_at"], now)
    return (hook["id"], hook["agent"], words.line(does), age, state, hook["url"])


@hooks.command()
def revoke(hook: HookArg, as_json: Json = False) -> None:
    """Refuse messages to a hook from now on."""
    revoked = connect().revoke_hook(hook)
    if as_json:
        show_json(revoked)
    else:
        say(f"{revoked['id']}: revoked")


@hooks.command()
def secret(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False)], as_json: Json = False
) -> None:
    """Print the secret that signs torpor's messages to a URL."""
    found = connect().webhook_secret(url)
    if as_json:
        show_json(found)
    else:
        sys.stdout.write(f"{found['secret']}\n")
