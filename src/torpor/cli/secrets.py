"""secrets: what agents' requests are sent with, kept from the agents themselves."""

from __future__ import annotations

import getpass
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.cli import complete
from torpor.cli.host import connect
from torpor.cli.options import Json
from torpor.core.errors import Invalid
from torpor.core.placements import SECRET_CHARS_MIN, VALUE_CHARS_MAX
from torpor.core.secrets import check_secret_name, check_value, parse_terms
from torpor.terminal.screen import say, show, show_json, table
from torpor.web import words

Object = dict[str, Any]

secrets = typer.Typer(
    help="Manage secrets: sent with agents' requests, never seen by the agents.",
    no_args_is_help=True,
)

New = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="Its name, as agents' files ask for it: GITHUB_TOKEN.",
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        show_default=False,
        help="A secret's name.",
        autocompletion=complete.secrets,
    ),
]
File = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="Read the value from this file. By default from standard input; in a terminal it is "
        "asked for.",
    ),
]
# A value among the arguments is refused by `_check_command_line`, which does not repeat it.
ANY_ARGUMENTS = {"allow_extra_args": True}


@secrets.command(name="set", context_settings=ANY_ARGUMENTS)
def set_secret(
    context: typer.Context,
    name: New,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            metavar="HOST",
            help="Where it may be sent: a name, *.x or **.x; repeatable. By default the hosts of "
            "the preset that knows the name.",
        ),
    ] = None,
    header: Annotated[
        str | None,
        typer.Option(
            "--header",
            metavar="TEMPLATE",
            help="Send it in this header, in the place of {}. By default as the preset of the "
            "hosts has it, else 'Authorization: Bearer {}'.",
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option("--query", metavar="KEY", help="Send it as this parameter of the URL."),
    ] = None,
    basic: Annotated[
        str | None,
        typer.Option(
            "--basic", metavar="USER", help="Send it as the password of basic authentication."
        ),
    ] = None,
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent", metavar="NAME", help="For this agent only; repeatable. By default for all."
        ),
    ] = None,
    file: File = None,
    as_json: Json = False,
) -> None:
    """Set a secret, or replace the one of that name. Its value can never be read back."""
    _check_command_line(name, context.args)
    places = {"header": header, "query": query, "basic": basic}
    given = {kind: place for kind, place in places.items() if place is not None}
    if len(given) > 1:
        raise typer.BadParameter("give one of --header, --query and --basic")
    # What is wrong is said before the value is typed.
    terms = parse_terms(
        {"hosts": host, "placement": given or None, "agents": agent}, check_secret_name(name)
    )
    secret = check_value(_value(name, file))
    found = connect().set_secret(name, secret, **terms.to_json())
    if as_json:
        show_json(found)
        return
    say(f"{name}: sent to {', '.join(found['hosts'])} {_placed(found['placement'])}")
    if len(secret) < SECRET_CHARS_MIN:
        say(
            f"it has fewer than {SECRET_CHARS_MIN} characters, so that answers are not searched "
            "for it",
            "yellow",
        )
    for unknown in found["unknown_agents"]:
        say(f"no agent {unknown} is deployed yet", "yellow")


@secrets.command(context_settings=ANY_ARGUMENTS)
def rotate(context: typer.Context, name: Name, file: File = None, as_json: Json = False) -> None:
    """Replace a secret's value. Agents notice nothing; requests under way have the old one."""
    _check_command_line(name, context.args)
    found = connect().rotate_secret(name, check_value(_value(name, file)))
    if as_json:
        show_json(found)
    else:
        say(f"{name}: rotated")


@secrets.command()
def rm(name: Name, as_json: Json = False) -> None:
    """Remove a secret. Requests that need it are refused from then on."""
    found = connect().remove_secret(name)
    if as_json:
        show_json(found)
    else:
        say(f"{name}: removed")


@secrets.command(name="list")
def list_secrets(
    changes: Annotated[
        bool, typer.Option("--changes", help="List what was done to secrets, by whom and when.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List secrets, whom they serve, and who set them."""
    client = connect()
    found = client.secret_changes() if changes else client.secrets()
    now = time.time()
    if as_json:
        show_json(found)
    elif not found:
        say("no secrets")
    elif changes:
        rows = [
            (each["name"], each["what"], words.ago(each["at"], now), _author(each))
            for each in found
        ]
        show(table(("SECRET", "WHAT", "WHEN", "BY"), rows))
    else:
        show(
            table(
                ("SECRET", "HOSTS", "SENT", "AGENTS", "SET", "ROTATED", "USED"),
                [
                    (
                        each["name"],
                        ", ".join(each["hosts"]),
                        _placed(each["placement"]),
                        "all" if each["agents"] is None else ", ".join(each["agents"]),
                        f"{words.ago(each['set_at'], now)} by {each['set_by']}",
                        _when(each, now),
                        words.ago(each["used_at"], now) if each["used_at"] else "never",
                    )
                    for each in found
                ],
            )
        )


def _author(change: Object) -> str:
    return f"{change['by']}, from {change['whence']}" if change["whence"] else str(change["by"])


def _when(secret: Object, now: float) -> str:
    if secret["rotated_at"] is None:
        return "never"
    return f"{words.ago(secret['rotated_at'], now)} by {secret['rotated_by']}"


def _placed(placement: Mapping[str, str]) -> str:
    ((kind, place),) = placement.items()
    return {
        "header": f"in {place}",
        "query": f"as the parameter {place}",
        "basic": f"as the password of {place or 'nobody'}",
    }[kind]


def _at_terminal() -> bool:
    return sys.stdin.isatty()


def _check_command_line(name: str, others: Sequence[str]) -> None:
    """Raises Invalid, which does not repeat what may be a secret."""
    if others or "=" in name:
        raise Invalid(
            "a value is not taken from the command line: others on this host, and the shell's "
            "history, have it there",
            hint="Give it on standard input, or with --file; in a terminal it is asked for. If "
            "this was the real one, replace it.",
        )


def _value(name: str, file: Path | None) -> str:
    """Never from the command line, which others of the host can see. Raises Invalid."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                read = opened.read(4 * VALUE_CHARS_MAX)
        except OSError as error:
            raise Invalid(f"cannot read {file}: {error.strerror}") from error
    elif _at_terminal():
        return getpass.getpass(f"{name}: ")
    else:
        read = sys.stdin.buffer.read(4 * VALUE_CHARS_MAX)
    try:
        return read.decode()
    except UnicodeDecodeError:
        raise Invalid("the value is not text") from None
