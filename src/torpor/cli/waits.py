"""waits, complete, approve, deny: what runs wait for, and answering it."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
from rich.text import Text

from torpor.cli import complete as shell
from torpor.cli.answering import Data, find_wait, given, user
from torpor.cli.filling import expected
from torpor.cli.options import Json
from torpor.cli.question import outcome_words
from torpor.client import Client
from torpor.core.home import Home
from torpor.terminal.screen import facts, say, show, show_json, table
from torpor.web import words

WaitArg = Annotated[
    str,
    typer.Argument(
        metavar="WAIT",
        show_default=False,
        help="A wait's id, or the id of a run with one open question.",
        autocompletion=shell.waits,
    ),
]
Note = Annotated[str | None, typer.Option(metavar="TEXT", help="A note for the agent.")]


def waits(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", show_default=False, autocompletion=shell.runs),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Include those that have ended.")] = False,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Only waits with this tag.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List what runs wait for."""
    found = Client(Home.find()).waits(run, tag=tag, all=all)
    if as_json:
        show_json(found)
    elif not found:
        say("nothing waits")
    else:
        now = time.time()
        urls = [(wait["id"], wait["url"]) for wait in found if wait["url"]]
        heads = ("WAIT", "RUN", "SINCE", "ENDS", "STATE", "FOR")
        show(table(heads, [_row(wait, now) for wait in found]))
        if urls:
            show(Text())
            show(facts(urls))
        for wait in found:
            if fields := expected(wait["schema"] if wait["state"] == "open" else None):
                show(Text("\n".join(["", f"{wait['id']}: the answer has", *fields])))


def _row(wait: dict[str, Any], now: float) -> tuple[str, ...]:
    due = wait["due_at"]
    ends = "" if due is None else f"in {words.duration(due - now)}" if due > now else "now"
    is_open = wait["state"] == "open"
    return (
        wait["id"],
        wait["run"],
        words.ago(wait["created_at"], now),
        ends if is_open else words.ago(wait["completed_at"] or now, now),
        "open" if is_open else outcome_words(wait),
        words.question(wait),
    )


def complete(wait: WaitArg, data: Data = None, as_json: Json = False) -> None:
    """Answer a wait with data."""
    _answer(wait, data, as_json=as_json)


def approve(wait: WaitArg, note: Note = None, data: Data = None, as_json: Json = False) -> None:
    """Answer an agent's question with yes."""
    _answer(wait, data, as_json=as_json, approved=True, note=note)


def deny(wait: WaitArg, note: Note = None, as_json: Json = False) -> None:
    """Answer an agent's question with no."""
    _answer(wait, None, as_json=as_json, approved=False, note=note)


def _answer(ref: str, data: str | None, *, as_json: bool, **answer: Any) -> None:
    client = Client(Home.find())
    found = find_wait(client, ref)
    if data is not None:
        answer["data"] = given(data, lambda: client.wait(found))
    ended = client.complete(found, by=user(), **answer)
    if as_json:
        show_json(ended)
    else:
        say(f"{words.question(ended)}: {outcome_words(ended)}")
