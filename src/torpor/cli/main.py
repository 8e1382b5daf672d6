"""`torpor`: its commands, listed, and how their errors are shown.

Its start is short: this module imports no command, and whatever else not every command needs. To
add a command is a line in `cli.commands`, whose docstring says how.

No traceback reaches a person. An error that torpor raises on purpose, or typer of what was typed,
is one line that says what was wrong, and one what to do; any other points to its traceback, which
is in run/crash-*.log for us. With --json it is a JSON document on stderr, `{"error": {…}}`, in the
shape of the API's problems. Exit codes are in `cli.exits`.
"""

from __future__ import annotations

import errno
import itertools
import os
import sys
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

import torpor
from torpor.cli.commands import COMMANDS
from torpor.cli.exits import MEANINGS, Exit, of_error
from torpor.cli.lazy import LazyGroup
from torpor.core.errors import InternalError, Invalid, TorporError, problem


class Program(LazyGroup):
    listed = COMMANDS

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        begin = partial(super().main, args, prog_name, complete_var, False, **extra)
        if not standalone_mode:
            return begin()
        given = sys.argv[1:] if args is None else list(args)
        # What comes after -- is not for us.
        as_json = "--json" in itertools.takewhile(lambda each: each != "--", given)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            sys.exit(begin())
        except TorporError as error:
            show_error(error, as_json=as_json)
            sys.exit(of_error(error))
        except TyperException as error:
            if type(error).__name__ != "NoArgsIsHelpError":  # that is the help, shown already
                show_error(_usage(error), as_json=as_json)
            sys.exit(error.exit_code)
        except typer.Abort:
            typer.echo("nothing was done", err=True)
            sys.exit(Exit.REFUSED)
        except Exception as error:
            show_error(_internal(error), as_json=as_json)
            sys.exit(Exit.BROKEN)

    def invoke(self, ctx: Any) -> Any:
        try:
            given = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt:
            typer.echo("\ninterrupted", err=True)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise
            # Whoever read us has left. What is still to be written is written nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.UNREAD) from None
        return given


def show_error(error: TorporError, *, as_json: bool) -> None:
    if as_json:
        import json

        sys.stderr.write(json.dumps({"error": problem(error)}) + "\n")
    else:
        from torpor.terminal.screen import complain

        complain(error.message, error.hint)


def _usage(error: Any) -> Invalid:
    """What typer says of what was typed, on one line."""
    message = " ".join(error.format_message().removeprefix("Invalid value: ").split())
    message = message.replace("Value error, ", "").replace("Input should be", "it should be")
    message = message.partition(", unable to parse")[0]  # as what it should be
    names, context = list[str](), getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return Invalid(message.rstrip("."), hint=f"See: {' '.join(['torpor', *names])} --help")


def _internal(error: Exception) -> InternalError:
    """An error that nobody foresaw: one line for the person, the traceback for us."""
    import time
    import traceback

    from torpor.core.home import Home

    brief = f"internal error: {type(error).__name__}: {error}"
    try:
        folder = Home.find().create().run
        path = folder / f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{time.time_ns() % 10**9:09d}.log"
        path.write_text("".join(traceback.format_exception(error)))
    except OSError:
        return InternalError(brief)
    return InternalError(brief, hint=f"The traceback is in {path}. Please report it.")


app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Durable AI agents that sleep for free.",
    epilog="Exit codes: " + " · ".join(f"{code} {text}" for code, text in MEANINGS.items()),
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
