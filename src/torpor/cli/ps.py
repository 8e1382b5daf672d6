"""ps: runs in a table."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from torpor.cli import family
from torpor.cli.options import Json
from torpor.client import Client
from torpor.core.home import Home
from torpor.core.states import FINAL, RELOADED, UNFINISHED, RunState
from torpor.terminal.columns import Cell
from torpor.terminal.screen import say, show, show_json, state, table
from torpor.web import words

_DAY_S = 86400
_RECENT_MAX = 1000

Object = dict[str, Any]


def ps(
    status: Annotated[
        RunState | None, typer.Option("--status", help="Only runs in this state.")
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="All runs, however old.")] = False,
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help='Only runs of this queue, such as "dev" (torpor dev\'s).'
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List runs: unfinished ones, and those that ended in the last day.

    Runs that `torpor dev` left behind for newer code are listed with --queue dev or --all.
    """
    client = Client(Home.find())
    if status is not None or all:
        found = list(client.all_runs([status.value] if status else []))
    else:
        ended = client.runs([s.value for s in FINAL], limit=_RECENT_MAX)
        since = time.time() - _DAY_S
        found = list(client.all_runs(UNFINISHED)) + [r for r in ended if r["ended_at"] >= since]
        found = [run for run in found if queue or not _was_reloaded(run)]
        found.sort(key=lambda run: run["created_at"], reverse=True)
    found = [run for run in found if queue in (None, run["queue"])]
    if as_json:
        show_json(found)
    elif not found:
        say("no runs" if all else "no runs (--all shows older ones)")
    else:
        waits: dict[str, list[Object]] = {}
        for wait in client.waits():
            waits.setdefault(wait["run"], []).append(wait)
        now = time.time()
        heads = ("RUN", "AGENT", "STATE", "STARTED", "RAN", "SLEPT", "")
        rows = [row(r, depth, waits.get(r["id"], []), now) for depth, r in family.in_order(found)]
        show(table(heads, rows))


def _was_reloaded(run: Object) -> bool:
    return bool(run["error"]) and run["error"]["type"] == RELOADED


def row(run: Object, depth: int, waits: list[Object], now: float) -> tuple[Cell, ...]:
    about = ""
    if run.get("queued_because"):
        about = f"waits for a machine: {run['queued_because']}"
    elif awaited := words.awaited(run, waits):
        about = f"waiting for {words.waiting_for(awaited, now)}"
    elif run["error"]:
        about = words.line(words.error_line(run["error"]))
    return (
        f"{'  ' * (depth - 1)}└ {run['id']}" if depth else run["id"],
        run["agent"] or "",
        state(run["state"]),
        words.ago(run["created_at"], now),
        words.duration(run["ran_s"]),
        words.duration(run["slept_s"]) if run["slept_s"] else "",
        about,
    )
