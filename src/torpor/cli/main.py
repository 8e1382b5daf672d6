"""`torpor`: its commands, listed, and how their errors are shown.

Its start is short: this module imports no command, and whatever else not every command needs. To
add a command is a line in `cli.commands`, whose docstring says how.

No traceback reaches a person: an error that torpor raises on purpose is its message and its
hint; any other is one line, and its traceback is in run/crash-*.log for us.
"""

from __future__ import annotations

import errno
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import torpor
from torpor.cli.commands import COMMANDS
from torpor.cli.entry import INTERRUPTED
from torpor.cli.lazy import LazyGroup
from torpor.model.errors import TorporError

FAILED, UNAVAILABLE = 1, 3
_CODES = {"unreachable": UNAVAILABLE, "missing": UNAVAILABLE}


class Program(LazyGroup):
    listed = COMMANDS

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TorporError as error:
            from torpor.cli.screen import complain

            complain(error.message, error.hint)
            raise typer.Exit(_CODES.get(error.code, FAILED)) from error
        except KeyboardInterrupt as error:
            typer.echo("\ninterrupted", err=True)
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
    import time
    import traceback

    from torpor.cli.screen import say
    from torpor.model.home import Home

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
    cls=Program,
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


def main() -> None:
    app()


if __name__ == "__main__":
    main()
