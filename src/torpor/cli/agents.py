"""deploy, run: from an agent's file to a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.cli import terminal
from torpor.cli.attach import Explain, attach
from torpor.cli.environment import EnvFileOpt, EnvOpt, given_env
from torpor.cli.exits import Exit
from torpor.cli.given import Files, usage
from torpor.cli.host import connect
from torpor.cli.inputs import InputGiven
from torpor.cli.options import ENGINE, Json
from torpor.cli.reaching import state_new
from torpor.client import Client
from torpor.core.agentfile import AgentSource
from torpor.core.durations import seconds
from torpor.core.errors import GuestError, Invalid, TorporError
from torpor.engine import registry
from torpor.engine.capabilities import EMULATED, EMULATION, NOT_ISOLATED
from torpor.project.missing import missing_file, missing_module
from torpor.project.reading import read_agent
from torpor.terminal.screen import progress, say, show, show_json, table
from torpor.web import words

EngineOpt = Annotated[
    str | None,
    typer.Option(
        "--engine",
        **ENGINE,
        help=f"{registry.in_words()}. "
        "By default what the agent's file says, else the server's choice.",
    ),
]
InputOpt = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="The input, a JSON object; @FILE and - (stdin) read it."),
]
FilesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--file",
        metavar="FILE[:PLACE]",
        help="A file or directory that the agent finds in its working directory.",
    ),
]
TargetArg = Annotated[str, typer.Argument(metavar="AGENT", show_default=False)]


def deploy(
    target: TargetArg,
    engine: EngineOpt = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask about what it may reach.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make an agent's template now, so that its runs can start at once.

    AGENT is a file or a project's directory. All of its agents are deployed. What this version may
    reach beyond the last one is listed, and in a terminal you are asked whether to go on.
    """
    path, _ = split_target(target)
    source, client = read_agent(path), connect()
    asks = state_new(client, source) and not yes and terminal.interactive()
    if asks and not typer.confirm("deploy it?", err=True):
        say("not deployed", "yellow")
        raise typer.Exit(Exit.REFUSED)
    deployed = deploy_now(client, source, engine)
    if as_json:
        show_json(deployed)
        return
    rows = [
        (a["name"], _parameters(a["params"]), words.line(a["doc"] or ""))
        for a in deployed["agents"]
    ]
    show(table(("AGENT", "INPUT", ""), rows))


def _parameters(params: list[dict[str, Any]]) -> str:
    return ", ".join(p["name"] if p["required"] else f"{p['name']}?" for p in params)


def run(
    target: TargetArg,
    input: InputOpt = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            metavar="KEY=VALUE",
            help="One parameter. VALUE is read as its annotation says; without one, as "
            "JSON or else text. @FILE is a file: its text, or its content or path "
            "if the annotation is bytes or Path.",
        ),
    ] = None,
    files: FilesOpt = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the run's id and leave.")
    ] = False,
    id_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="Idempotency key: the same key again is the same run."),
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="The queue in which it waits for a machine.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Counts for the queue's limit per key.")
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="Higher goes first.")] = 0,
    delay: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help='Wait this long before starting it: "90s", "2h".'),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Cancel it if it has not started by then."),
    ] = None,
    id_key_for: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="After this time the key may start another run."),
    ] = None,
    env: EnvOpt = None,
    env_file: EnvFileOpt = None,
    engine: EngineOpt = None,
    as_json: Json = False,
) -> None:
    """Run an agent and follow it until it ends. Ctrl-C leaves it running.

    AGENT is a file or a project's directory, which is deployed first, or the name of a deployed
    agent: NAME, NAME:AGENT, or AGENT if only one file has it.
    """
    path, name = split_target(target)
    explain: Explain | None = None
    given, carried = InputGiven.read(input, pairs or []), Files.of_options(files or ())
    how: dict[str, Any] = {
        "queue": queue,
        "key": key,
        "priority": priority,
        "delay_s": duration_s(delay, "--delay") or 0.0,
        "expires_s": duration_s(expires, "--expires"),
        "id_key_for_s": duration_s(id_key_for, "--id-key-for"),
        "env": given_env(env, env_file),
    }
    agent: dict[str, Any] | None
    if is_file(path):
        source = read_agent(path)
        explain = partial(missing_file, source=source)
        client = connect()
        state_new(client, source)
        deployed = deploy_now(client, source, engine)
        agent = offered(deployed, name, path)
        which = deployed["version"], name
    else:
        client = connect()
        agent = described(client, target, engine=engine) if given.described else None
        which, how["engine"] = (None, target), engine
    typed = given.of(agent, carried)
    with usage("-i"):
        carried.check()
    started = client.start(*which, typed, id_key, files=carried.by_place, **how)
    if not is_file(path) and not registry.isolates(started["engine"]):
        _say_not_isolated(started["engine"], "" if engine else "the agent's default; ")
    if detach:
        if as_json:
            show_json(started)
        else:
            sys.stdout.write(started["id"] + "\n")
        return
    say(started["id"], "dim")
    raise typer.Exit(attach(client, started, explain=explain, as_json=as_json))


def is_file(path: Path) -> bool:
    """Whether a file is meant, be it one that is not there."""
    return path.exists() or path.suffix == ".py" or len(path.parts) > 1


def duration_s(text: str | None, option: str) -> float | None:
    """Raises BadParameter."""
    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: {error}") from error


def split_target(target: str) -> tuple[Path, str | None]:
    """`agent.py:research` → its path and the agent's name; a file of that very name wins."""
    if not target.strip():
        raise typer.BadParameter("AGENT is empty")
    path, colon, name = target.rpartition(":")
    if not colon or Path(target).exists():
        return Path(target), None
    if not path or not name:
        raise typer.BadParameter(f"{target!r} is not AGENT.py or AGENT.py:NAME")
    return Path(path), name


def described(client: Client, ref: str, **which: Any) -> dict[str, Any] | None:
    """How the agent described itself, for what is typed as its input. None if that is not to be
    had: what is wrong with its name is said when it is to be started."""
    with suppress(TorporError):
        found: dict[str, Any] = client.agent(ref, **which)["agent"]
        return found
    return None


def offered(deployed: Mapping[str, Any], name: str | None, path: Path) -> dict[str, Any]:
    """The agent of this name of what was deployed from `path`. Raises Invalid."""
    agents: list[dict[str, Any]] = deployed["agents"]
    wanted = name or deployed["default"] or (agents[0]["name"] if len(agents) == 1 else None)
    for each in agents:
        if each["name"] == wanted:
            return each
    names = ", ".join(each["name"] for each in agents)
    hint = f"Name one, such as {path}:{agents[0]['name']}"
    if wanted is None:
        raise Invalid(f"{path} has several agents: {names}", hint=hint)
    raise Invalid(f"{path} has no agent {wanted!r}; it has {names}", hint=hint)


def deploy_now(client: Client, source: AgentSource, engine: str | None = None) -> dict[str, Any]:
    """Deploy, showing what that is at."""
    began = time.monotonic()
    try:
        with progress("reading the agent") as tell:
            deployed = client.deploy(source, tell, engine)
    except TorporError as error:
        _say_notes(source)
        if isinstance(error, GuestError):
            missing = missing_module(error.message, source) or missing_file(error.message, source)
            error.hint = error.hint or missing
        raise
    if not deployed["cached"]:  # who has seen it once need not each time
        _say_notes(source)
        deployed_in = f"deployed in {words.duration(time.monotonic() - began)}"
        if deployed["template_bytes"] is not None:
            deployed_in += f" · template {words.size(deployed['template_bytes'])}"
            if client.health()["accel"] == EMULATION:
                deployed_in += f" · emulated: {EMULATED}"
        say(deployed_in, "dim")
    if not registry.isolates(deployed["engine"]):
        _say_not_isolated(deployed["engine"], _why_process(client, source, engine))
    return deployed


def _say_notes(source: AgentSource) -> None:
    for note in source.notes:
        say(note, "yellow")


def _say_not_isolated(engine: str, why: str) -> None:
    say(f"engine {engine}: {why}{NOT_ISOLATED}", "yellow")


def _why_process(client: Client, source: AgentSource, engine_chosen: str | None) -> str:
    """Where nobody asked for it here, what did."""
    if engine_chosen:
        return ""
    return f"{'its file says so' if source.rules.engine else client.health()['engine_why']}; "
