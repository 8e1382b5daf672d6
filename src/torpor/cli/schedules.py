"""schedules: runs that are started at times."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer

from torpor.cli.agents import described, duration_s
from torpor.cli.environment import EnvFileOpt, EnvOpt, given_env
from torpor.cli.host import connect
from torpor.cli.inputs import InputGiven
from torpor.cli.options import Json
from torpor.client import Client
from torpor.core.home import Home
from torpor.terminal.screen import say, show, show_json, table
from torpor.web import words

Object = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="SCHEDULE", show_default=False)]

app = typer.Typer(help="Manage schedules, which start agents at set times.")


@app.callback(invoke_without_command=True)
def _list_if_nothing_else(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_schedules()


@app.command()
def add(
    name: Name,
    cron: Annotated[
        str, typer.Argument(metavar="CRON", show_default=False, help='"30 8 * * mon-fri"')
    ],
    agent: Annotated[
        str,
        typer.Argument(metavar="AGENT", show_default=False, help="The name of a deployed agent."),
    ],
    zone: Annotated[str, typer.Option(metavar="ZONE", help='"Europe/Berlin"')] = "UTC",
    input: Annotated[
        str | None, typer.Option(metavar="JSON", help="The input, as with torpor run.")
    ] = None,
    pairs: Annotated[list[str] | None, typer.Option("-i", metavar="KEY=VALUE")] = None,
    jitter: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Start up to this much later, at random.")
    ] = None,
    overlap: Annotated[
        str, typer.Option(help="If the last run has not ended: skip, queue, cancel-old.")
    ] = "skip",
    missed: Annotated[
        str,
        typer.Option(help="For times when no server was running: skip, once, all (at most 100)."),
    ] = "once",
    queue: Annotated[str | None, typer.Option(metavar="NAME")] = None,
    priority: Annotated[int, typer.Option(metavar="N")] = 0,
    env: EnvOpt = None,
    env_file: EnvFileOpt = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Change an existing schedule.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a schedule: start AGENT's current version at each time of CRON."""
    given, client = InputGiven.read(input, pairs or []), connect()
    settings = {
        "agent": agent,
        "cron": cron,
        "zone": zone,
        "input": given.of(described(client, agent) if given.described else None),
        "jitter_s": duration_s(jitter, "--jitter") or 0.0,
        "overlap": overlap,
        "missed": missed,
        "queue": queue,
        "priority": priority,
        "env": given_env(env, env_file),
        "replace": replace,
    }
    _show_schedule(client.add_schedule(name, **settings), as_json)


@app.command("list")
def list_schedules(as_json: Json = False) -> None:
    """List schedules."""
    found = Client(Home.find()).schedules()
    if as_json:
        show_json(found)
    elif not found:
        say("no schedules")
    else:
        now = time.time()
        heads = ("SCHEDULE", "CRON", "ZONE", "AGENT", "NEXT", "LAST", "")
        show(table(heads, [_row(each, now) for each in found]))


def _row(each: Object, now: float) -> tuple[str, ...]:
    return (
        each["name"],
        each["cron"],
        each["zone"],
        each["agent"],
        "paused" if each["paused"] else _next(each, now),
        "" if each["last_time"] is None else words.ago(each["last_time"], now),
        words.line(each["trouble"] or ""),
    )


def _next(each: Object, now: float) -> str:
    if each["next_at"] is None:
        return "never"
    return f"in {words.duration(max(0.0, each['next_at'] - now))}"


@app.command()
def pause(name: Name, as_json: Json = False) -> None:
    """Pause a schedule."""
    _show_schedule(Client(Home.find()).pause_schedule(name, True), as_json)


@app.command()
def resume(name: Name, as_json: Json = False) -> None:
    """Resume a schedule with its next time. Times that passed meanwhile do not count as missed."""
    _show_schedule(Client(Home.find()).pause_schedule(name, False), as_json)


@app.command()
def remove(name: Name) -> None:
    """Remove a schedule. Its runs stay."""
    Client(Home.find()).remove_schedule(name)
    say(f"{name}: removed")


def _show_schedule(schedule: Object, as_json: bool) -> None:
    if as_json:
        show_json(schedule)
    elif schedule["paused"]:
        say(f"{schedule['name']}: paused")
    elif schedule["next_time"] is None:
        say(f"{schedule['name']}: has no next time")
    else:
        at = datetime.fromtimestamp(schedule["next_time"], ZoneInfo(schedule["zone"]))
        say(f"{schedule['name']}: next at {at.isoformat(' ', 'minutes')} ({schedule['zone']})")
