"""doctor, up, down, bench: what concerns this host."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.text import Text

from torpor.cli import words
from torpor.cli.screen import err, facts, say, show, show_json, table
from torpor.client import (
    Client,
    Remote,
    Unreachable,
    ensure_server,
    refuse_remote,
    running,
    server_command,
    stop_server,
)
from torpor.model.engines import NOT_ISOLATED, PROCESS, SETTING, Engine
from torpor.model.errors import Conflict, Invalid
from torpor.model.home import Home
from torpor.model.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN, size_mib

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

NO_ENGINE = 3
_MARKS = {True: Text("ok", "green"), False: Text("no", "red"), None: Text("–", "yellow")}


def doctor(as_json: Json = False) -> None:
    """What this host can do, and which engine will be used, and why."""
    from torpor.control.doctor import can_run, checks  # loads the engines: only here

    found = checks(Home.find())
    if as_json:
        show_json([asdict(check) for check in found])
    else:
        show(table(("", "CHECK", "DETAIL"), [(_MARKS[c.ok], c.name, c.detail) for c in found]))
        for check in found:
            if check.hint and check.ok is not True:
                say(f"{check.name}: {check.hint}", "dim")
    if not can_run(found):
        raise typer.Exit(NO_ENGINE)


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal; Ctrl-C stops it.")
    ] = False,
    engine: Annotated[
        Engine | None,
        typer.Option(
            help="For agents for which none is named: qemu, or process, which isolates nothing. "
            "By default what this host can do.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Open a port for public links of waits, and for the API with keys: torpor keys.",
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="What public links begin with, if others reach the port by that."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the server, if it does not run."""
    refuse_remote("torpor up")
    home = Home.find()
    told = {SETTING: engine, "TORPOR_LISTEN": listen, "TORPOR_PUBLIC_URL": public_url}
    os.environ.update({key: value for key, value in told.items() if value is not None})
    if foreground:
        sys.stdout.flush()
        # Nothing of this process is needed any more, and signals then go straight to the server.
        command = server_command(home)
        os.execv(command[0], command)
    was_up = running(home)
    health = connect(home).health()
    if as_json:
        show_json(health)
        return
    if engine is not None and health["engine"] != engine:
        raise Conflict(
            f"the server that runs uses engine {health['engine']}: {health['engine_why']}",
            hint=f"Stop it first: torpor down, then torpor up --engine {engine}",
        )
    if (listen or public_url) and was_up and not health["public_url"]:
        raise Conflict(
            "the server that runs has no public links",
            hint="Stop it first: torpor down, then again.",
        )
    using = health["engine"] + (f" ({health['accel']})" if health["accel"] else "")
    using += f": {health['engine_why']}"
    rows = [
        ("server", f"{'already up' if was_up else 'up'}, pid {health['pid']}"),
        ("home", str(health["home"])),
        ("engine", f"{using}; {NOT_ISOLATED}" if health["engine"] == PROCESS else using),
    ]
    if health["public_url"]:
        rows.append(("public", health["public_url"]))
    if health["model"]:
        rows.append(("model", health["model"]))
    show(facts(rows))


def connect(home: Home | None = None) -> Client:
    """A client of a server that runs, started if need be, with a word if that takes a moment."""
    home = home or Home.find()
    if Remote.find() is not None or running(home):
        return ensure_server(home)
    with err.status("starting the server"):
        return ensure_server(home)


def down(as_json: Json = False) -> None:
    """Stop the server, its machines and processes. Runs go on where they are at the next start."""
    refuse_remote("torpor down")
    home = Home.find()

    def told(stage: str, message: str, fraction: float | None) -> None:
        if not as_json:
            say(message, "dim")

    try:
        going = len(Client(home).runs(("running", "queued"), limit=1000))
        with err.status("stopping the server"):
            stop_server(home, told)
        stopped = True
    except Unreachable:
        if running(home):  # it lives but does not answer: stopping it is not done
            raise
        going, stopped = 0, False
        if home.run.exists():  # one that was killed leaves its processes
            from torpor.control.processes import stop_processes  # only where there is no server

            asyncio.run(stop_processes(home))
    if as_json:
        show_json({"stopped": stopped, "unfinished": going})
    elif not stopped:
        say("no server runs")
    else:
        say("server stopped")
        if going:
            say(f"{words.count(going, 'run')} under way: torpor up goes on from there")


bench = typer.Typer(help="Measure torpor on this host.", no_args_is_help=True)


Memory = Annotated[
    str, typer.Option(metavar="SIZE", help="Memory of the machine, like 512M or 1G.")
]


@bench.command()
def sleep(
    memory: Memory = "512M",
    cycles: Annotated[
        int,
        typer.Option(min=2, max=10_000, help="How often it sleeps; half of its wakes are cold."),
    ] = 20,
    as_json: Json = False,
) -> None:
    """How fast a real agent falls asleep and wakes, what its sleep costs, and what QEMU's own
    migration to a file takes for the same."""
    memory_mib = _memory_mib(memory)
    from torpor.bench.sleep import main  # loads the engines: only here

    raise typer.Exit(main(memory_mib=memory_mib, cycles=cycles, as_json=as_json))


@bench.command(name="waits")
def bench_waits(
    answers: Annotated[
        int, typer.Option(min=2, max=100_000, help="How many, each to a run that is asleep.")
    ] = 1000,
    as_json: Json = False,
) -> None:
    """Whether an agent with many waits at once acts on each answer, and how soon."""
    from torpor.bench.waits import main  # loads the engines: only here

    raise typer.Exit(main(answers, as_json=as_json))


@bench.command(name="snapshots")
def bench_snapshots(
    memory: Memory = "512M",
    many: Annotated[
        int,
        typer.Option(min=10, max=10_000, help="How many snapshots of one run; half are collected."),
    ] = 100,
    as_json: Json = False,
) -> None:
    """What snapshots cost, beside QEMU's own migration to a file: figures, bars and bounds."""
    memory_mib = _memory_mib(memory)
    from torpor.bench.snapshots import main  # loads the engines: only here

    raise typer.Exit(main(memory_mib=memory_mib, many=many, as_json=as_json))


@bench.command()
def journal(
    steps: Annotated[
        int, typer.Option(min=100, max=100_000, help="How many, one after the other.")
    ] = 10_000,
    machine_steps: Annotated[
        int, typer.Option(min=20, max=10_000, help="How many from a machine.")
    ] = 1000,
    peer_steps: Annotated[
        int, typer.Option(min=100, max=100_000, help="How many under dbos.")
    ] = 2000,
    kills: Annotated[int, typer.Option(min=1, max=10_000, help="Processes that are killed.")] = 200,
    as_json: Json = False,
) -> None:
    """What durable steps, recovery and waking cost, beside raw SQLite and dbos, and whether 200
    kills lose or repeat anything."""
    from torpor.bench.journal import Sizes, main  # loads the engines: only here

    raise typer.Exit(main(Sizes(steps, machine_steps, peer_steps, kills), as_json=as_json))


@bench.command(name="control")
def bench_control(
    sleeping: Annotated[
        int, typer.Option(min=50, max=1_000_000, help="How many runs sleep.")
    ] = 10_000,
    runs: Annotated[
        int, typer.Option(min=20, max=100_000, help="After how many its memory is looked at.")
    ] = 500,
    machine_runs: Annotated[
        int,
        typer.Option(min=0, max=100_000, help="The same on machines; 0: without machines."),
    ] = 60,
    as_json: Json = False,
) -> None:
    """What the control plane costs: appends, starts, waking, many runs that sleep, and the memory
    of a server that runs many and freezes much."""
    from torpor.bench.control import Sizes, main  # loads the engines: only here

    raise typer.Exit(main(Sizes(sleeping, runs, machine_runs), as_json=as_json))


@bench.command(name="query")
def bench_query(
    entries: Annotated[
        int, typer.Option(min=10_000, max=100_000_000, help="How many entries there are.")
    ] = 1_000_000,
    as_json: Json = False,
) -> None:
    """What questions by SQL take on a long log, and what is written for them."""
    from torpor.bench.query import main  # loads the store: only here

    raise typer.Exit(main(entries, as_json=as_json))


def _memory_mib(memory: str) -> int:
    try:
        return size_mib(memory, MEMORY_MIB_MIN, MEMORY_MIB_MAX, f"{memory!r}")
    except Invalid as error:
        raise typer.BadParameter(error.message, param_hint="--memory") from error
