"""doctor, setup, up, down: what concerns this host."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from torpor.cli.exits import Exit
from torpor.cli.options import ENGINE, Json
from torpor.client import (
    URL,
    Client,
    Remote,
    Unreachable,
    ensure_server,
    refuse_remote,
    require_linux,
    running,
    server_command,
    stop_server,
)
from torpor.core.errors import Conflict
from torpor.core.home import Home
from torpor.core.release import difference
from torpor.engine import registry
from torpor.engine.capabilities import NOT_ISOLATED
from torpor.terminal.screen import err, facts, progress, say, show, show_json, table
from torpor.web import words

if TYPE_CHECKING:
    from torpor.core.checks import Check

_MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("–", "yellow")}


def doctor(as_json: Json = False) -> None:
    """Say what this host can do, which engine will be used, and why.

    If TORPOR_URL names a server: whether it answers, and accepts the key.
    """
    if (remote := Remote.find()) is not None:
        _reach(remote, as_json=as_json)
        return
    require_linux()
    from torpor.control.observe.doctor import examine  # loads the engines: only here

    found = examine(Home.find())
    _report(found.checks, as_json=as_json)
    if not found.can_run:
        raise typer.Exit(Exit.UNAVAILABLE)


def setup(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; say what is here and what is missing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Install what machines need: Debian packages, the binding of FUSE, the guest image.

    Only root can install packages: anybody else is shown the command. What is here already is left
    alone. Where machines cannot run, it says what can.
    """
    refuse_remote("torpor setup")
    from torpor.setup.system import system

    if (host := system()).ok is False:
        _report([host], as_json=as_json)
        raise typer.Exit(Exit.UNAVAILABLE)
    from torpor.setup.checks import checks  # loads what only Linux has

    home, image = Home.find(), None
    if not check:
        from torpor.setup.ready import make_ready

        with progress("looking at this host") as tell:
            image = make_ready(home, tell)
    found = checks(home, image)
    _report(found, as_json=as_json)
    if any(each.ok is False for each in found):
        raise typer.Exit(Exit.UNAVAILABLE)
    if not as_json:
        say("This host is ready for machines.")


def _report(found: Sequence[Check], *, as_json: bool) -> None:
    if as_json:
        show_json([asdict(check) for check in found])
        return
    show(table(("", "CHECK", "DETAIL"), [(_MARKS[c.ok], c.name, c.detail) for c in found]))
    for check in found:
        if check.hint and check.ok is not True:
            say(f"{check.name}: {check.hint}", "dim")


def _reach(remote: Remote, *, as_json: bool) -> None:
    """What can be said of a server elsewhere. Raises what it says if it refuses, Unreachable."""
    health = Client(Home.find()).health()
    if as_json:
        show_json(health)
        return
    differs = difference(health["version"])
    using = f"{health['engine']}: {health['engine_why']}"
    show(
        facts(
            [
                ("server", f"answers at {remote.url}"),
                ("torpor", health["version"]),
                ("engine", using),
            ]
        )
    )
    if differs:
        say(differs, "yellow")
    say(f"What its host can do: torpor doctor there, or here without {URL}.", "dim")


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal; Ctrl-C stops it.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            **ENGINE,
            help=f"For agents for which none is named. {registry.in_words()}. "
            "By default what this host can do.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Open a port for public links, and for the API with keys (torpor keys).",
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The address by which others reach the port: public links begin with it.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Start the server if it is not running."""
    refuse_remote("torpor up")
    require_linux()
    home = Home.find()
    settings = {registry.SETTING: engine, "TORPOR_LISTEN": listen, "TORPOR_PUBLIC_URL": public_url}
    os.environ.update({key: value for key, value in settings.items() if value is not None})
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
            f"the running server uses the engine {health['engine']}: {health['engine_why']}",
            hint=f"Stop it first: torpor down, then torpor up --engine {engine}",
        )
    if (listen or public_url) and was_up and not health["public_url"]:
        raise Conflict(
            "the running server has no public links",
            hint="Stop it with torpor down, then repeat this command.",
        )
    using = health["engine"] + (f" ({health['accel']})" if health["accel"] else "")
    using += f": {health['engine_why']}"
    rows = [
        ("server", f"{'already up' if was_up else 'up'}, pid {health['pid']}"),
        ("home", str(health["home"])),
        ("engine", using if registry.isolates(health["engine"]) else f"{using}; {NOT_ISOLATED}"),
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
    """Stop the server with its machines and processes.

    At the next start, runs go on where they were.
    """
    refuse_remote("torpor down")
    home = Home.find()

    def report(stage: str, message: str, fraction: float | None) -> None:
        if not as_json:
            say(message, "dim")

    try:
        going = len(Client(home).runs(("running", "queued"), limit=1000))
        with err.status("stopping the server"):
            stop_server(home, report)
        stopped = True
    except Unreachable:
        if running(home):  # it lives but does not answer: stopping it is not done
            raise
        going, stopped = 0, False
        if home.run.exists():  # one that was killed leaves its processes
            import asyncio

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
