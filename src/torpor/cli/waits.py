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
from torpor.core import permissions
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
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="A run's id, or the beginning of one; by default all runs.",
            autocompletion=shell.runs,
        ),
    ] = None,
    all: Annotated[bool, typer.Option("--all", help="Include those that have ended.")] = False,
    tag: Annotated[
        str | None, typer.Option(metavar="TAG", help="Only waits with this tag.")
    ] = None,
    whole: Annotated[
        str | None,
        typer.Option(metavar="WAIT", help="Print all of what a permission is asked for."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what runs wait for."""
    client = Client(Home.find())
    if whole is not None:
        show(Text(client.wait_action(find_wait(client, whole)).rstrip("\n")))
        return
    found = client.waits(run, tag=tag, all=all)
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
            if wait["kind"] == permissions.KIND and wait["state"] == "open":
                show(Text(_permission(wait)))
            if fields := expected(wait["schema"] if wait["state"] == "open" else None):
                show(Text("\n".join(["", f"{wait['id']}: the answer has", *fields])))


def _permission(wait: dict[str, Any]) -> str:
    """What is to be decided about, and how."""
    lines = words.plain(words.shown(wait["data"])).splitlines()
    return "\n".join(["", f"{wait['id']} asks for permission", *(f"  {each}" for each in lines)])


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


def approve(
    wait: WaitArg,
    note: Note = None,
    data: Data = None,
    for_run: Annotated[
        bool,
        typer.Option(
            "--for-run",
            help="Of a permission: allow all that has the same method, host and path, or is the "
            "same tool, for the rest of this run.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Answer an agent's question with yes.

    What it asks permission for is allowed, once or for the rest of the run.
    """
    if for_run and data is not None:
        raise typer.BadParameter("takes no --data", param_hint="--for-run")
    decision = {"decision": permissions.RUN} if for_run else None
    _answer(wait, data, as_json=as_json, approved=True, note=note, decision=decision)


def deny(wait: WaitArg, note: Note = None, as_json: Json = False) -> None:
    """Answer an agent's question with no.

    What it asks permission for is denied, with the note as the reason that the agent gets.
    """
    _answer(wait, None, as_json=as_json, approved=False, note=note)


def _answer(
    ref: str, data: str | None, *, as_json: bool, decision: Any = None, **answer: Any
) -> None:
    client = Client(Home.find())
    found = find_wait(client, ref)
    if decision is not None:
        answer["data"] = decision
    elif data is not None:
        answer["data"] = given(data, lambda: client.wait(found))
    ended = client.complete(found, by=user(), **answer)
    if as_json:
        show_json(ended)
    else:
        say(f"{words.question(ended)}: {outcome_words(ended)}")
