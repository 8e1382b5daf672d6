"""What a person may answer, how, and as whom."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

import typer

from torpor.cli.filling import expected
from torpor.cli.inputs import value_given
from torpor.client import Client
from torpor.core import doubts, permissions
from torpor.core.errors import Conflict, TorporError
from torpor.web import words

Object = dict[str, Any]

Data = Annotated[
    str | None,
    typer.Option(
        metavar="VALUE",
        help="Data for the agent: JSON, or else text. It must fit the wait's schema.",
    ),
]


def given(text: str, find: Callable[[], Mapping[str, Any] | None]) -> Any:
    """What `text` stands for as an answer: by the schema of the wait, if that is to be had, which
    a key that may only answer cannot see; by default JSON, or else text. Raises BadParameter."""
    wait = None
    with suppress(TorporError):  # what is wrong with its name is said when it is answered
        wait = find()
    schema = None if wait is None or wait["approve"] else wait["schema"]
    return value_given(text, "--data", schema, {"schema": schema})


def user() -> str | None:
    """Who answers, as the log shows it."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return None


def answerable(wait: Object) -> bool:
    """Whether a person may answer it: time, events and children come by themselves."""
    return wait["kind"] not in ("sleep", "event", "child")


def how_to_answer(wait: Object) -> str:
    """In words: what an answer has to look like, the command, and its public link if it has one."""
    fields = [f"  {each}" for each in expected(wait.get("schema"))]
    fields = ["the answer has"] * bool(fields) + fields
    return "\n  ".join(filter(None, (*fields, _command(wait), wait.get("url"))))


def _command(wait: Object) -> str:
    if wait["kind"] == "event":
        return f"torpor send {wait['run']} {wait['prompt']} --data VALUE"
    if wait["kind"] == permissions.KIND:
        allow = f"torpor approve {wait['id']} [--for-run]"
        return f"{allow}  or  torpor deny {wait['id']} --note WHY"
    if wait["approve"]:
        return f"torpor approve {wait['id']}  or  torpor deny {wait['id']}"
    if wait["kind"] == "doubt":
        return f"torpor complete {wait['id']} --data VALUE, which is {doubts.CHOICES}"
    return f"torpor complete {wait['id']} --data VALUE"


def find_wait(client: Client, ref: str) -> str:
    """The wait meant by `ref`; a run's id stands for its only open wait. Raises Conflict."""
    if not ref.startswith("run_"):
        return ref
    open_waits = [wait for wait in client.waits(client.run(ref)["id"]) if answerable(wait)]
    match open_waits:
        case [only]:
            return str(only["id"])
        case []:
            raise Conflict(
                f"{ref} does not wait for an answer", hint="See: torpor waits --all " + ref
            )
        case several:
            lines = "\n".join(f"  {w['id']}  {words.question(w)}" for w in several)
            raise Conflict(f"{ref} has {len(several)} open waits", hint=f"Name one:\n{lines}")
