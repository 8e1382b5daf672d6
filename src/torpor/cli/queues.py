"""queues: where runs wait for a machine, and their limits."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from torpor.cli.options import Json
from torpor.client import Client
from torpor.core.home import Home
from torpor.core.rules import parse_rate
from torpor.terminal.screen import say, show, show_json, table

Object = dict[str, Any]
Name = Annotated[str, typer.Argument(metavar="QUEUE", show_default=False)]

app = typer.Typer(help="Manage queues, where runs wait for a machine, and their limits.")


@app.callback(invoke_without_command=True)
def _list_if_nothing_else(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_queues()


@app.command("list")
def list_queues(as_json: Json = False) -> None:
    """List queues."""
    found = Client(Home.find()).queues()
    if as_json:
        show_json(found)
    elif not found:
        say("no queues: the first run makes one")
    else:
        heads = ("QUEUE", "RUNNING", "WAITING", "DELAYED", "ASLEEP", "LIMITS")
        show(table(heads, [_row(queue) for queue in found]))


def _row(queue: Object) -> tuple[str, ...]:
    most = queue["concurrency"]
    running = str(queue["running"]) if most is None else f"{queue['running']} of {most}"
    return (
        queue["name"],
        running,
        str(queue["queued"]),
        str(queue["delayed"]),
        str(queue["suspended"]),
        ", ".join(_limits(queue)),
    )


def _limits(queue: Object) -> list[str]:
    described = ["paused"] if queue["paused"] else []
    described += [f"{queue['per_key']} of a key"] if queue["per_key"] is not None else []
    return described + ([f"starts {queue['rate']}"] if queue["rate"] is not None else [])


@app.command()
def pause(queue: Name, as_json: Json = False) -> None:
    """Pause a queue: none of its runs is started or woken. Those at work go on."""
    _set(queue, as_json, paused=True)


@app.command()
def resume(queue: Name, as_json: Json = False) -> None:
    """Resume a paused queue."""
    _set(queue, as_json, paused=False)


Count = Annotated[str | None, typer.Option(metavar="N", help='A number, or "none".')]


@app.command("set")
def set_queue(
    queue: Name,
    concurrency: Count = None,
    per_key: Count = None,
    rate: Annotated[str | None, typer.Option(metavar="N/TIME", help='"10/1m", or "none".')] = None,
    as_json: Json = False,
) -> None:
    """Change the limits of a queue, until a deployed file sets others.

    --concurrency: how many of its runs may have a machine at once. --per-key: how many of those
    with the same --key. --rate: how many may start within a time. A sleeping run has no machine.
    """
    changes: Object = {}
    if concurrency is not None:
        changes["concurrency"] = _count(concurrency, "--concurrency")
    if per_key is not None:
        changes["per_key"] = _count(per_key, "--per-key")
    if rate is not None:
        changes["rate"] = None if rate == "none" else parse_rate(rate, "--rate").text
    if not changes:
        raise typer.BadParameter("nothing to change: give --concurrency, --per-key or --rate")
    _set(queue, as_json, **changes)


def _count(text: str, option: str) -> int | None:
    if text != "none" and not (text.isdecimal() and int(text) > 0):
        raise typer.BadParameter(f'{option}: {text!r} is neither a number from 1 nor "none"')
    return None if text == "none" else int(text)


def _set(queue: str, as_json: bool, **changes: Any) -> None:
    changed = Client(Home.find()).set_queue(queue, **changes)
    if as_json:
        show_json(changed)
        return
    most = changed["concurrency"]
    described = _limits(changed) + ([] if most is None else [f"{most} at once"])
    say(f"{changed['name']}: {', '.join(described) or 'no limits'}")
