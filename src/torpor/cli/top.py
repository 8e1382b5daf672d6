"""top: what is going on now, drawn anew every other second."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.client import Client, Unreachable
from torpor.core.states import UNFINISHED, RunState
from torpor.terminal.columns import Cell
from torpor.terminal.screen import show, show_json, state, table
from torpor.web import words

Object = dict[str, Any]

_RUNS = 200
_AT_WORK = {RunState.RUNNING.value: 0, RunState.QUEUED.value: 1}


def top(
    interval: Annotated[
        float, typer.Option(min=0.2, max=60, help="Seconds between updates.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one update and leave.")] = False,
    as_json: Json = False,
) -> None:
    """Watch unfinished runs, those at work first. Ctrl-C leaves."""
    client = connect()
    if as_json:
        show_json(look(client))
    elif once or not sys.stdout.isatty():
        show(frame(look(client), time.time(), rows_max=_RUNS))
    else:
        _live(client, interval)


def _live(client: Client, interval_s: float) -> None:
    console = Console(highlight=False)
    found: Object | None = None
    with Live(console=console, screen=True, auto_refresh=False) as live:
        for _ in itertools.count():
            try:
                found, gone = look(client), ""
            except Unreachable:  # it may come back
                gone = "the server is gone; waiting for it to come back"
            if found is not None:
                rows_max = max(1, console.height - 4)
                live.update(frame(found, time.time(), rows_max=rows_max, remark=gone), refresh=True)
            time.sleep(interval_s)


def look(client: Client) -> Object:
    """What there is to show: totals, the unfinished runs, what they wait for."""
    runs = client.runs(UNFINISHED, limit=_RUNS)
    runs.sort(key=lambda run: (_AT_WORK.get(run["state"], 2), -run["state_since"]))
    return {"totals": client.totals(), "runs": runs, "waits": client.waits()}


def frame(found: Object, now: float, *, rows_max: int, remark: str = "") -> Group:
    totals, waits = found["totals"], dict[str, list[Object]]()
    for wait in found["waits"]:
        waits.setdefault(wait["run"], []).append(wait)
    counts = [f"{number} {name}" for name, number in totals["runs"].items() if number]
    summary = ", ".join(counts) or "no runs"
    kept = f"{totals['snapshots']} snapshots, {words.size(totals['snapshot_bytes'])}"
    if totals["memory_mib"] is not None:
        kept += f"; {totals['memory_taken_mib']:,} of {totals['memory_mib']:,} MiB taken"
    title = Text.assemble(
        ("torpor", "bold"),
        f"  {summary}; {words.count(totals['waits_open'], 'wait')} open; {kept}",
        (f"  {remark}" if remark else "", "yellow"),
    )
    rows = [_row(run, waits.get(run["id"], []), now) for run in found["runs"][:rows_max]]
    heads = ("RUN", "AGENT", "STATE", "FOR", "RAN", "SLEPT", "WAITS FOR")
    return Group(title, Text(), table(heads, rows) if rows else Text("nothing is going on", "dim"))


def _row(run: Object, waits: list[Object], now: float) -> tuple[Cell, ...]:
    awaited = words.awaited(run, waits)
    return (
        run["id"],
        run["agent"] or "",
        state(run["state"]),
        words.duration(now - run["state_since"]),
        words.duration(run["ran_s"]),
        words.duration(run["slept_s"]) if run["slept_s"] else "",
        words.waiting_for(awaited, now) if awaited else "",
    )
