"""fork, retry: new runs that begin as others were."""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any

import typer

from torpor.cli import family
from torpor.cli.agents import deploy_now, described, split_target
from torpor.cli.attach import attach
from torpor.cli.host import connect
from torpor.cli.inputs import InputGiven, file_text, value_given
from torpor.cli.options import Json, RunArg
from torpor.client import Client
from torpor.project.reading import read_agent
from torpor.terminal.screen import say, show_json

_SET = re.compile(r"(.+?:.+?#[0-9]+)=(.*)", re.DOTALL)

Object = dict[str, Any]

New = Annotated[
    str | None,
    typer.Option("--agent", metavar="NEW.py", help="Use other code, which replays what is shared."),
]
Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Follow it until it ends, as torpor run does.")
]


def fork(
    run: RunArg,
    at: Annotated[
        str | None,
        typer.Option(metavar="SEQ", help="An entry of its log, or a snapshot. Default: its end."),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="Use another input: the fork starts at the beginning."),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option("-i", metavar="KEY=VALUE", help="Keep the input, except for this parameter."),
    ] = None,
    agent: New = None,
    results: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="OP=VALUE",
            help="Replace a recorded result: JSON, or else text; @FILE is a file's "
            "text. The fork begins there, unless --at says where.",
        ),
    ] = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """Start a new run from any point of RUN's log."""
    client = connect()
    given, version = None, _version(client, run, agent)
    if input is not None or pairs:
        typed, origin = InputGiven.read(input, pairs or []), client.run(run)
        which = {"version": version or origin["version"]}
        given = typed.of(described(client, origin["agent"], **which))
        if input is None:
            given = origin["input"] | given
    created = client.fork(
        run,
        at=int(at) if at is not None and at.isdecimal() else at,
        input=given,
        version=version,
        set=dict(_result(each) for each in results or ()),
    )
    _show_run(client, created, follow=follow, as_json=as_json)


def retry(run: RunArg, agent: New = None, follow: Follow = False, as_json: Json = False) -> None:
    """Start a new run that goes on from where RUN failed or was cancelled."""
    client = connect()
    created = client.retry(run, version=_version(client, run, agent))
    _show_run(client, created, follow=follow, as_json=as_json)


def _version(client: Client, run: str, agent: str | None) -> str | None:
    if agent is None:
        return None
    path, name = split_target(agent)
    if name is not None:
        raise typer.BadParameter(
            "--agent takes a file without :NAME; the run's agent is looked for in it"
        )
    engine = client.run(run)["engine"]
    return str(deploy_now(client, read_agent(path), engine)["version"])


def _result(text: str) -> tuple[str, Any]:
    found = _SET.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"--set {text!r} is not OP=VALUE, such as step:search#1=[]")
    op, value = found.groups()
    return op, file_text(value[1:]) if value.startswith("@") else value_given(value, f"--set {op}")


def _show_run(client: Client, created: Object, *, follow: bool, as_json: bool) -> None:
    if not as_json or follow:
        say(family.origin(client.run(created["id"])), "dim")
    if follow:
        say(created["id"], "dim")
        raise typer.Exit(attach(client, created, as_json=as_json))
    if as_json:
        show_json(created)
    else:
        sys.stdout.write(created["id"] + "\n")
