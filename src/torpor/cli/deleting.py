"""delete, retention: ended runs that are not kept any more."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from torpor.cli import complete
from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.client import Client
from torpor.core.durations import seconds
from torpor.core.errors import Conflict
from torpor.core.home import Home
from torpor.core.sizes import size_mib
from torpor.core.states import FINAL
from torpor.terminal.screen import facts, say, show, show_json
from torpor.web import words

_FOR_EVER = "ever"
_LOG_MIB_MAX = 1 << 30
_NAMED_MAX = 10

Runs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RUN…",
        show_default=False,
        help="Ids, or beginnings of ids.",
        autocompletion=complete.runs,
    ),
]


def delete(
    runs: Runs = None,
    queue: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help='All ended runs of this queue, such as "dev" (torpor dev\'s).'
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    as_json: Json = False,
) -> None:
    """Delete ended runs for good: log, waits, snapshots, keys, files."""
    if not runs and queue is None:
        raise typer.BadParameter("give the runs to delete, or --queue NAME")
    client = Client(Home.find())
    named = {client.run(run)["id"] for run in runs or ()}
    # Of a queue, those that have ended; what an unfinished fork shares is kept with it.
    every = [] if queue is None else list(client.all_runs(s.value for s in FINAL))
    swept = {run["id"] for run in every if run["queue"] == queue} - named
    # Forks before the runs whose logs they share: ids sort by age.
    found = sorted(named | swept, reverse=True)
    if not yes and not as_json and found:
        which = ", ".join(found) if len(found) <= _NAMED_MAX else words.count(len(found), "run")
        typer.confirm(f"Delete {which} for good?", abort=True)
    deleted = []
    for run in found:
        try:
            deleted.append(client.delete(run))
        except Conflict as error:
            if run in named:
                raise
            say(f"{run} stays: {error.message}", "dim")
            continue
        if not as_json:
            say(f"{run}: deleted")
    if as_json:
        show_json(deleted)


def retention(
    age: Annotated[
        str | None,
        typer.Option(metavar="AGE", help='Delete runs that ended longer ago: "30d", or "ever".'),
    ] = None,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="While the database is larger, delete the runs that ended first: "
            '"10G", or "ever".',
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set how long ended runs are kept; by default for ever."""
    client = connect()
    kept = client.retention()
    if age is not None:
        kept["age_s"] = _age_s(age)
    if log is not None:
        kept["log_bytes"] = _log_bytes(log)
    if age is not None or log is not None:
        kept = client.keep(kept)
    if as_json:
        show_json(kept)
    else:
        show(facts([("ended runs", _ages(kept)), ("database", _sizes(kept))]))


def _age_s(age: str) -> float | None:
    if age == _FOR_EVER:
        return None
    try:
        return seconds(age)
    except ValueError as error:
        raise typer.BadParameter(f"--age: {error}") from error


def _log_bytes(log: str) -> int | None:
    return None if log == _FOR_EVER else size_mib(log, 1, _LOG_MIB_MAX, f"--log {log}") << 20


def _ages(kept: dict[str, Any]) -> str:
    age_s = kept["age_s"]
    return "kept for ever" if age_s is None else f"kept for {words.duration(age_s)}"


def _sizes(kept: dict[str, Any]) -> str:
    size = kept["log_bytes"]
    return "as large as it gets" if size is None else f"{words.size(size)} at most"
