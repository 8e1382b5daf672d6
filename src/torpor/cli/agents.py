"""deploy, run: from an agent's file to a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.status import Status

from torpor.cli import words
from torpor.cli.attach import attach
from torpor.cli.environment import EnvFileOpt, EnvOpt, given_env
from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.cli.screen import err, say, show, show_json, table
from torpor.client import Client, OnProgress
from torpor.model import inputs, jsonvalues, schemas
from torpor.model.agentfile import AgentSource, read_agent
from torpor.model.durations import seconds
from torpor.model.engines import NOT_ISOLATED, PROCESS, Engine
from torpor.model.errors import TorporError

EngineOpt = Annotated[
    Engine | None,
    typer.Option(
        "--engine",
        help="qemu: a microVM of its own; process: a plain process, isolated from nothing. "
        "By default what the agent's file says, else the server's choice.",
    ),
]
AgentArg = Annotated[str, typer.Argument(metavar="AGENT.py[:NAME]", show_default=False)]
TargetArg = Annotated[str, typer.Argument(metavar="AGENT", show_default=False)]


def deploy(target: AgentArg, engine: EngineOpt = None, as_json: Json = False) -> None:
    """Make an agent's template now, so that its runs start from it at once."""
    path, _ = split_target(target)
    source = read_agent(path)
    deployed = deploy_now(connect(), source, engine)
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
    input: Annotated[
        str | None,
        typer.Option(metavar="JSON", help="The input, an object; @FILE or - (stdin) read it."),
    ] = None,
    pairs: Annotated[
        list[str] | None,
        typer.Option(
            "-i",
            metavar="KEY=VALUE",
            help="One parameter: VALUE is what the agent's annotation says, by default JSON, or "
            "else text; @FILE is a file's text.",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Print the run's id and leave.")
    ] = False,
    id_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key again gives the same run.")
    ] = None,
    queue: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it waits for a machine.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="For the queue's limit per key.")
    ] = None,
    priority: Annotated[int, typer.Option(metavar="N", help="The higher goes first.")] = 0,
    delay: Annotated[
        str | None, typer.Option(metavar="DURATION", help='Not before: "90s", "2h".')
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Cancelled, if it is not started by then."),
    ] = None,
    id_key_for: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="After that the key may make another run."),
    ] = None,
    env: EnvOpt = None,
    env_file: EnvFileOpt = None,
    engine: EngineOpt = None,
    as_json: Json = False,
) -> None:
    """Run an agent, and follow it until it ends. Ctrl-C leaves it running.

    AGENT is a file, which is deployed first; or the name of what is deployed: NAME, NAME:AGENT, or
    AGENT where one has it.
    """
    path, name = split_target(target)
    given = InputGiven.read(input, pairs or [])
    how = {
        "queue": queue,
        "key": key,
        "priority": priority,
        "delay_s": duration_s(delay, "--delay") or 0.0,
        "expires_s": duration_s(expires, "--expires"),
        "id_key_for_s": duration_s(id_key_for, "--id-key-for"),
        "env": given_env(env, env_file),
    }
    if _is_file(path):
        source = read_agent(path)
        client = connect()
        deployed = deploy_now(client, source, engine)
        agent = _offered(deployed, name)
        started = client.start(deployed["version"], name, given.of(agent), id_key, **how)
    else:
        client = connect()
        chosen = engine and engine.value
        agent = described(client, target, engine=chosen) if given.pairs else None
        started = client.start(None, target, given.of(agent), id_key, engine=chosen, **how)
        if started["engine"] == PROCESS:
            _say_not_isolated("" if engine else "the agent's default; ")
    if detach:
        if as_json:
            show_json(started)
        else:
            sys.stdout.write(started["id"] + "\n")
        return
    say(started["id"], "dim")
    raise typer.Exit(attach(client, started, as_json=as_json))


def _is_file(path: Path) -> bool:
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


@dataclass(frozen=True)
class InputGiven:
    """A run's input as it was typed: `--input`, and each `-i` over it, a text or a file's."""

    whole: dict[str, Any]
    pairs: dict[str, str]
    files: dict[str, str]

    @classmethod
    def read(cls, whole: str | None, pairs: list[str]) -> InputGiven:
        """Raises BadParameter."""
        given = _object(whole) if whole is not None else {}
        texts: dict[str, str] = {}
        files: dict[str, str] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise typer.BadParameter(f"-i {pair!r} is not KEY=VALUE")
            texts.pop(key, None)
            files.pop(key, None)
            if value.startswith("@"):
                files[key] = file_text(value[1:])
            else:
                texts[key] = value
        return cls(given, texts, files)

    def of(self, agent: Mapping[str, Any] | None) -> dict[str, Any]:
        """The input that it is to an agent that described itself so. Raises BadParameter."""
        typed = {
            key: value_given(text, f"-i {key}", agent and inputs.schema_of(agent, key), agent)
            for key, text in self.pairs.items()
        }
        return {**self.whole, **typed, **self.files}


def described(client: Client, ref: str, **which: Any) -> dict[str, Any] | None:
    """How the agent described itself, for what is typed as its input. None if that is not to be
    had: what is wrong with its name is said when it is to be started."""
    with suppress(TorporError):
        found: dict[str, Any] = client.agent(ref, **which)["agent"]
        return found
    return None


def _offered(deployed: Mapping[str, Any], name: str | None) -> dict[str, Any] | None:
    agents: list[dict[str, Any]] = deployed["agents"]
    wanted = name or deployed["default"]
    return next((each for each in agents if each["name"] == wanted), None)


def _object(whole: str) -> dict[str, Any]:
    text: str | bytes = whole
    if whole == "-":
        text = sys.stdin.buffer.read()
    elif whole.startswith("@"):
        text = file_text(whole[1:])
    value = json_given(text, "--input")
    if not isinstance(value, dict):
        raise typer.BadParameter("--input must be a JSON object: the agent's parameters by name")
    return value


def json_given(text: str | bytes, option: str) -> Any:
    """The value of an option that is JSON. Raises BadParameter."""
    try:
        return jsonvalues.read(text)
    except jsonvalues.Refused as error:
        raise typer.BadParameter(f"{option} {error}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{option} is not valid JSON: {error}") from error


def value_given(
    text: str, option: str, schema: Any = None, agent: Mapping[str, Any] | None = None
) -> Any:
    """The value of an option that is JSON or else text, or as `schema` says, which is in that of
    an agent. Raises BadParameter."""
    try:
        return schemas.from_text(text, schema, agent and agent.get("schema"))
    except jsonvalues.Refused as error:
        raise typer.BadParameter(f"{option}: {words.line(text, 40)} {error}") from error


def file_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {name!r}: {error}") from error


def deploy_now(client: Client, source: AgentSource, engine: str | None = None) -> dict[str, Any]:
    """Deploy, showing what that is at."""
    began = time.monotonic()
    with _progress() as tell:
        deployed = client.deploy(source, tell, engine)
    if not deployed["cached"]:
        told = f"deployed in {words.duration(time.monotonic() - began)}"
        if deployed["template_bytes"] is not None:
            told += f" · template {words.size(deployed['template_bytes'])}"
        say(told, "dim")
    if deployed["engine"] == PROCESS:
        _say_not_isolated(_why_process(client, source, engine))
    return deployed


def _say_not_isolated(why: str) -> None:
    say(f"engine {PROCESS}: {why}{NOT_ISOLATED}", "yellow")


def _why_process(client: Client, source: AgentSource, asked: str | None) -> str:
    """Where nobody asked for it here, what did."""
    if asked:
        return ""
    return f"{'its file says so' if source.rules.engine else client.health()['engine_why']}; "


@contextmanager
def _progress() -> Iterator[OnProgress]:
    """Shows what a deployment is at: one moving line in a terminal, else a line for each stage."""
    if not err.is_terminal:
        stages: set[str] = set()

        def tell(stage: str, message: str, fraction: float | None) -> None:
            if stage not in stages:
                stages.add(stage)
                say(message)

        yield tell
        return
    with err.status("reading the agent") as status:
        yield lambda stage, message, fraction: _update(status, message, fraction)


def _update(status: Status, message: str, fraction: float | None) -> None:
    share = "" if fraction is None else f" {fraction:.0%}"
    # Square brackets would be markup to rich.
    status.update(words.line(message).replace("[", r"\[") + share)
