"""hooks: what others may send in, and what our own webhooks are signed with."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.cli.screen import facts, say, show, show_json, table
from torpor.web import words

hooks = typer.Typer(help="Webhooks: messages from others, and ours.", no_args_is_help=True)

HookArg = Annotated[
    str, typer.Argument(metavar="HOOK", show_default=False, help="Its id, or a beginning of it.")
]


@hooks.command()
def create(
    agent: Annotated[
        str,
        typer.Argument(
            metavar="AGENT", show_default=False, help="A deployed one: FILE, FILE:NAME or NAME."
        ),
    ],
    event: Annotated[
        str | None,
        typer.Option(metavar="EVENT", help="Messages are this event for a run, with --run-at."),
    ] = None,
    run_at: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Where in a message its run stands, such as data.metadata.run."
        ),
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(metavar="PARAMETER", help="Give the agent the whole message as this one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Let others start runs of an agent, or send them events, by signed messages."""
    created = connect().create_hook(agent, event=event, run_at=run_at, into=into)
    if as_json:
        show_json(created)
        return
    show(facts([("hook", created["id"]), ("url", created["url"]), ("secret", created["secret"])]))
    say("The secret is shown only now. Messages are signed as Standard Webhooks has it.", "dim")


@hooks.command(name="list")
def list_hooks(
    all: Annotated[bool, typer.Option("--all", help="Also those that were revoked.")] = False,
    as_json: Json = False,
) -> None:
    """The hooks there are."""
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
    """Take no more messages by a hook."""
    revoked = connect().revoke_hook(hook)
    if as_json:
        show_json(revoked)
    else:
        say(f"{revoked['id']}: revoked")


@hooks.command()
def secret(
    url: Annotated[str, typer.Argument(metavar="URL", show_default=False)], as_json: Json = False
) -> None:
    """What messages that torpor sends to a URL are signed with."""
    found = connect().webhook_secret(url)
    if as_json:
        show_json(found)
    else:
        sys.stdout.write(f"{found['secret']}\n")
