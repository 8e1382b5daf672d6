"""agents, upgrade: the versions of agents, and moving runs between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from torpor.cli.options import Json, RunArg
from torpor.cli.reaching import show_rules
from torpor.client import Client
from torpor.core import inputs, schemas
from torpor.core.home import Home
from torpor.terminal.screen import facts, say, show, show_json, table
from torpor.web import words

Object = dict[str, Any]


AgentArg = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="Its name, or where it comes from, or the end of that: mail/agent.py.",
    ),
]

app = typer.Typer(help="List, show and retire deployed agents.")


@app.callback(invoke_without_command=True)
def _list_if_nothing_else(
    context: typer.Context,
    all: Annotated[bool, typer.Option("--all", help="Include older versions.")] = False,
    as_json: Json = False,
) -> None:
    if context.invoked_subcommand is None:
        list_agents(all, as_json)


@app.command("list")
def list_agents(
    all: Annotated[bool, typer.Option("--all", help="Include older versions.")] = False,
    as_json: Json = False,
) -> None:
    """List the current version of each agent and engine: the one that runs by name start."""
    found = [each for each in Client(Home.find()).agents() if all or each["current"]]
    if as_json:
        show_json(found)
    elif not found:
        say("no agents: torpor deploy FILE.py")
    else:
        heads = ("NAME", "VERSION", "AGENTS", "ENGINE", "DEPLOYED", "FROM")
        now = time.time()
        show(table(heads, [row for each in found for row in _rows(each, now)]))


def _rows(each: Object, now: float) -> Iterator[tuple[str, ...]]:
    agents = ", ".join(agent["name"] for agent in each["agents"])
    if not each["current"]:
        yield each["name"], each["version"][:12], agents, each["engine"], "", "(an older version)"
    for one in each["current"]:
        deployed = words.ago(one["deployed_at"], now)
        yield one["name"], each["version"][:12], agents, each["engine"], deployed, one["origin"]


@app.command("show")
def show_agent(agent: AgentArg, as_json: Json = False) -> None:
    """Show what an agent takes, and what it may reach. May be NAME:AGENT.

    Its parameters, their types, their defaults; its rules for the network.
    """
    client = Client(Home.find())
    found = client.agent(agent)
    if as_json:
        show_json(found)
        return
    offered = found["agent"]
    about = [("agent", offered["name"]), ("version", found["version"][:12])]
    show(facts([*about, ("engine", found["engine"])]))
    if offered["doc"]:
        show(Text("\n" + words.plain(offered["doc"])))
    if offered["params"] or offered["open"]:
        show(Text())
        heads = ("PARAMETER", "TYPE", "DEFAULT", "")
        rows = [_parameter(offered, each) for each in offered["params"]]
        rows += [("…", _type(offered, ""), "", "any other name")] * offered["open"]
        show(table(heads, rows))
    reach = client.reach(agent)
    if reach["rules"] or reach["budget"]:
        show(Text())
        show_rules(reach)


def _parameter(agent: Object, param: Object) -> tuple[str, ...]:
    schema = inputs.schema_of(agent, param["name"]) or {}
    default = "required" if param["required"] else "…"
    default = words.compact(param["default"], 60) if "default" in param else default
    about = words.line(str(schema.get("description") or ""))
    return param["name"], _type(agent, param["name"]), default, about


def _type(agent: Object, name: str) -> str:
    described = schemas.words(inputs.schema_of(agent, name), agent.get("schema"))
    return words.line(described) or "anything"


@app.command()
def retire(agent: AgentArg, as_json: Json = False) -> None:
    """Retire an agent: its name starts nothing any more. Its runs stay."""
    gone = Client(Home.find()).retire_agent(agent)
    if as_json:
        show_json(gone)
    else:
        say(f"{gone['name']} is not deployed any more: {gone['origin'] or 'no origin'}")


def upgrade(
    run: RunArg,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="VERSION", help="The version to move to; by default the current one."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Move a run that sleeps at a wait to another version of its agent.

    That version's file must allow it: `upgradable = true`.
    """
    moved = Client(Home.find()).upgrade(run, to)
    if as_json:
        show_json(moved)
    else:
        say(f"{moved['id']}: goes on as version {moved['version'][:12]}")
