"""`-e` and `--env-file`: environment variables as they are typed, or stand in a file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from torpor.core import environment
from torpor.core.errors import Invalid
from torpor.terminal.screen import say

EnvOpt = Annotated[
    list[str] | None,
    typer.Option(
        "-e",
        "--env",
        metavar="NAME[=VALUE]",
        help="An environment variable; without =VALUE, the one set here. Not for secrets.",
    ),
]
EnvFileOpt = Annotated[
    list[Path] | None,
    typer.Option(
        "--env-file", metavar="FILE", help="Environment variables, one NAME=VALUE a line."
    ),
]

_QUOTED = re.compile(r"""(['"])(.*)\1\s*(#.*)?""")


def given_env(pairs: Sequence[str] | None, files: Sequence[Path] | None) -> dict[str, str]:
    """All variables that were given for an agent. Says which seem to be secrets. Raises
    BadParameter."""
    env = read_env(pairs, files)
    _checked(lambda: environment.check_env(env, "environment variables"))
    if secret := environment.perhaps_secret(env):
        say(
            f"{', '.join(secret)}: variables are kept with the run and in its "
            "snapshots; what is secret belongs to torpor secrets",
            "yellow",
        )
    return env


def read_env(pairs: Sequence[str] | None, files: Sequence[Path] | None) -> dict[str, str]:
    """All variables that were given; the later of one name, and `-e` over a file's. Raises
    BadParameter."""
    env: dict[str, str] = {}
    for path in files or []:
        env.update(_read(path))
    env.update(_pair(pair, f"-e {pair.partition('=')[0]}") for pair in pairs or [])
    _checked(lambda: environment.check_env(env, "environment variables", anything=True))
    return env


def _checked(check: Callable[[], object]) -> None:
    try:
        check()
    except Invalid as error:
        raise typer.BadParameter(f"{error.message}. {error.hint}".removesuffix(". ")) from error


def _pair(text: str, where: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals and name not in os.environ:
        raise typer.BadParameter(f"{where}: {name} is not set here; write {name}=VALUE")
    return name, value if equals else os.environ[name]


def _read(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {str(path)!r}: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        name, equals, value = line.partition("=")
        _checked(partial(environment.check_name, name.strip(), where, anything=True))
        yield _pair(f"{name.strip()}{equals}{_plain(value.strip())}", where)


def _plain(value: str) -> str:
    """Without the quotes around it; of what has none, without a comment after it."""
    if quoted := _QUOTED.fullmatch(value):
        return quoted[2]
    return re.split(r"\s#", value, maxsplit=1)[0].rstrip()
