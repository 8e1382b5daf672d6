"""agents, upgrade: the versions of agents, and moving runs between them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from torpor.cli import words
from torpor.cli.host import Json
from torpor.cli.screen import say, show, show_json, table
from torpor.cli.storage import RunArg
from torpor.client import Client
from torpor.model.home import Home

Object = dict[str, Any]


def agents(
    all: Annotated[bool, typer.Option("--all", help="Older versions, too.")] = False,
    as_json: Json = False,
) -> None:
    """The agents that are deployed: of each file the current version, which new runs get."""
    found = Client(Home.find()).agents()
    current = {each["version"] for each in _current(found).values()}
    shown = [each | {"current": each["version"] in current} for each in found]
    shown = [each for each in shown if all or each["current"]]
    if as_json:
        show_json(shown)
    elif not shown:
        say("no agents: torpor deploy FILE.py")
    else:
        heads = ("FILE", "VERSION", "AGENTS", "ENGINE", "DEPLOYED", "")
        show(table(heads, [_row(each, time.time()) for each in shown]))


def _current(found: list[Object]) -> dict[str, Object]:
    by_age = sorted(
        (each for each in found if each["deployed_at"] is not None),
        key=lambda each: each["deployed_at"],
    )
    return {each["name"]: each for each in by_age}


def _row(each: Object, now: float) -> tuple[str, ...]:
    at = each["deployed_at"]
    return (
        each["name"],
        each["version"][:12],
        ", ".join(agent["name"] for agent in each["agents"]),
        each["engine"],
        "" if at is None else words.ago(at, now),
        "current" if each["current"] else "",
    )


def upgrade(
    run: RunArg,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="By default the current one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move a run that sleeps at a wait to another version of its agent, which says that it can."""
    moved = Client(Home.find()).upgrade(run, to)
    if as_json:
        show_json(moved)
    else:
        say(f"{moved['id']}: goes on as version {moved['version'][:12]}")
