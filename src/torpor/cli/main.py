"""`torpor`: the commands put together, and how their errors are shown.

No traceback reaches a person: an error that torpor raises on purpose is its message and its
hint; any other is one line, and its traceback is in run/crash-*.log for us.
"""

from __future__ import annotations

import errno
import time
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

import torpor
from torpor.cli import (
    agents,
    dashboard,
    deleting,
    events,
    forks,
    hooks,
    host,
    keys,
    mcp,
    query,
    queues,
    runs,
    schedules,
    storage,
    top,
    versions,
    waits,
)
from torpor.cli.entry import INTERRUPTED
from torpor.cli.screen import complain, say
from torpor.client import Unreachable
from torpor.model.errors import Missing, TorporError
from torpor.model.home import Home

FAILED, UNAVAILABLE = 1, 3


class _Program(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TorporError as error:
            complain(error.message, error.hint)
            raise typer.Exit(
                UNAVAILABLE if isinstance(error, Unreachable | Missing) else FAILED
            ) from error
        except KeyboardInterrupt as error:
            say("\ninterrupted")
            raise typer.Exit(INTERRUPTED) from error
        except (typer.Exit, typer.Abort, TyperException):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read us has left: typer ends quietly
            complain_internal(error)
            raise typer.Exit(FAILED) from error


def complain_internal(error: Exception) -> None:
    """One line for the person, the traceback for us."""
    brief = f"internal error: {type(error).__name__}: {error}"
    try:
        folder = Home.find().create().run
        path = folder / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.log"
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        say(brief, "red")
    else:
        say(f"{brief} (details in {path})", "red")


app = typer.Typer(
    cls=_Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Durable AI agents that sleep for free.",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"torpor {torpor.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


_THIS_HOST, _AGENTS, _RUNS, _WAITS = "This host", "Agents", "Runs", "Waits"

_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    _AGENTS: {"run": agents.run, "deploy": agents.deploy},
    _RUNS: {
        "ps": runs.ps,
        "top": top.top,
        "show": runs.show_run,
        "logs": runs.logs,
        "trace": runs.trace,
        "query": query.query,
        "snapshots": storage.snapshots,
        "cancel": runs.cancel,
        "delete": deleting.delete,
        "fork": forks.fork,
        "retry": forks.retry,
        "result": storage.result,
        "upgrade": versions.upgrade,
        "export": storage.export,
        "import": storage.import_run,
    },
    _WAITS: {
        "waits": waits.waits,
        "approve": waits.approve,
        "deny": waits.deny,
        "complete": waits.complete,
        "send": events.send,
    },
    _THIS_HOST: {
        "up": host.up,
        "down": host.down,
        "dashboard": dashboard.dashboard,
        "doctor": host.doctor,
        "mcp": mcp.mcp,
        "gc": storage.gc,
        "retention": deleting.retention,
        "backup": storage.backup,
        "restore": storage.restore,
    },
}
for panel, commands in _COMMANDS.items():
    for name, command in commands.items():
        app.command(name, rich_help_panel=panel)(command)
app.add_typer(versions.app, name="agents", rich_help_panel=_AGENTS)
app.add_typer(schedules.app, name="schedules", rich_help_panel=_RUNS)
app.add_typer(queues.app, name="queues", rich_help_panel=_RUNS)
app.add_typer(keys.keys, name="keys", rich_help_panel=_THIS_HOST)
app.add_typer(hooks.hooks, name="hooks", rich_help_panel=_WAITS)
app.add_typer(host.bench, name="bench", rich_help_panel=_THIS_HOST)


def main() -> None:
    app()


if __name__ == "__main__":
    main()
