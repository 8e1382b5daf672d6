"""keys: who may use the API over TCP, and for what."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from torpor.cli.agents import duration_s
from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.core.access import Scope
from torpor.terminal.screen import say, show, show_json, table
from torpor.web import words

Object = dict[str, Any]

keys = typer.Typer(help="Manage API keys, for access over TCP.", no_args_is_help=True)

Expires = Annotated[
    str | None, typer.Option("--expires", metavar="TIME", help="When it expires: 90d, 12h.")
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for; shown in lists and logs.")],
    scope: Annotated[
        list[Scope], typer.Option("--scope", "-s", help="What it may do; repeatable.")
    ],
    agent: Annotated[
        list[str] | None, typer.Option("--agent", help="For this agent only; repeatable.")
    ] = None,
    expires: Expires = None,
    as_json: Json = False,
) -> None:
    """Create a key. It is shown now and never again."""
    expires_s = duration_s(expires, "--expires")
    scopes = [each.value for each in scope]
    created = connect().create_key(name, scopes, agents=agent or None, expires_s=expires_s)
    _tell(created, as_json, f"key {created['id']}: {_may(created)}")


@keys.command(name="list")
def list_keys(as_json: Json = False) -> None:
    """List keys, and what each may do."""
    found = connect().keys()
    if as_json:
        show_json(found)
    elif not found:
        say("no keys")
    else:
        now = time.time()
        rows = [
            (key["id"], key["name"], words.ago(key["created_at"], now), _state(key, now), _may(key))
            for key in found
        ]
        show(table(("KEY", "NAME", "MADE", "STATE", "MAY"), rows))


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's id or name.")], as_json: Json = False
) -> None:
    """Refuse a key from now on."""
    found = connect().revoke_key(key)
    if as_json:
        show_json(found)
    else:
        say(f"key {found['id']} ({found['name']}): revoked")


@keys.command()
def token(
    run: Annotated[str | None, typer.Option("--run", help="A key to look at this run.")] = None,
    wait: Annotated[str | None, typer.Option("--wait", help="A key to answer this wait.")] = None,
    expires: Annotated[
        str, typer.Option("--expires", metavar="TIME", help="When it expires, at most 7d.")
    ] = "1h",
    as_json: Json = False,
) -> None:
    """Create a short-lived key for one run or one wait."""
    if (run is None) == (wait is None):
        raise typer.BadParameter("give either --run or --wait")
    created = connect().token(run=run, wait=wait, expires_s=duration_s(expires, "--expires") or 0.0)
    _tell(created, as_json, f"until {words.clock(created['expires_at'], time.time())}")


def _tell(created: Object, as_json: bool, about: str) -> None:
    if as_json:
        show_json(created)
        return
    typer.echo(created["key"])
    say(f"{about}; it is not shown again", "dim")


def _may(key: Object) -> str:
    limits = [f"agent {agent}" for agent in key["agents"] or ()]
    limits += [key[of] for of in ("run", "wait") if key[of]]
    of = f" of {', '.join(limits)}" if limits else ""
    return ", ".join(key["scopes"]) + of


def _state(key: Object, now: float) -> str:
    if key["revoked_at"] is not None:
        return "revoked"
    if key["expires_at"] is None:
        return "valid"
    left = key["expires_at"] - now
    return f"for {words.duration(left)}" if left > 0 else "expired"
