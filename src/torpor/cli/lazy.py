"""Commands that are loaded when they are used.

A program's commands are listed as data, `Listed`: what its help shows of them needs no import. The
module of a command is loaded when that command is run, asked for its help, or completed.

Typer reads every value with pydantic, whose import takes longer than all else that most commands
need. So what needs no reading, a text, an option that was not given, is taken as it is, and only
numbers, paths and choices that somebody typed go through typer's own reading (`_read`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

_TEXTS = (str, list[str])


@dataclass(frozen=True)
class Listed:
    """A command, or a group of commands, that is not loaded yet."""

    name: str
    where: str  # "module:attribute" in this package: a function or a typer.Typer
    help: str  # as its own docstring begins; a test holds the two together
    options_first: bool = False  # what follows its first argument is not its own to read

    def load(self) -> Any:
        module, _, attribute = self.where.partition(":")
        found = getattr(importlib.import_module(f"torpor.cli.{module}"), attribute)
        if isinstance(found, typer.Typer):
            command: Any = typer.main.get_group(found)
        else:
            alone = typer.Typer(add_completion=False)
            settings = {"allow_interspersed_args": not self.options_first}
            alone.command(self.name, context_settings=settings)(found)
            command = typer.main.get_command(alone)
        command.name = self.name
        _read_simply(command)
        return command


class Unloaded(TyperCommand):
    """What a group's help says of a command."""

    def __init__(self, listed: Listed, panel: str) -> None:
        super().__init__(listed.name, help=listed.help, rich_help_panel=panel)
        self.load = listed.load


class LazyGroup(TyperGroup):
    """Has the commands that are `listed`, by panel of its help, and loads those that are used."""

    listed: Mapping[str, Sequence[Listed]]

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for panel, commands in self.listed.items():
            for each in commands:
                self.add_command(Unloaded(each, panel))
        _read_simply(self)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.load() if isinstance(command, Unloaded) else command, rest


def _read_simply(command: Any) -> None:
    command.get_params = partial(_parameters, command.get_params)
    if isinstance(command, TyperGroup):
        for each in command.commands.values():
            _read_simply(each)


def _parameters(all: Callable[[Any], list[Any]], context: Any) -> list[Any]:
    parameters = all(context)
    for each in parameters:
        if not isinstance(each.process_value, partial):
            each.process_value = partial(_read, each, each.process_value)
    return parameters


def _read(parameter: Any, as_typer: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    if value is None or value == []:
        as_it_is = not parameter.required or context.resilient_parsing
    else:
        # A later typer may describe its parameters otherwise: then it reads all of them itself.
        described = getattr(parameter, "type_descriptor", None)
        as_it_is = getattr(described, "annotation", None) in _TEXTS or value == parameter.default
    if not as_it_is:
        return as_typer(context, value)
    return value if parameter.callback is None else parameter.callback(context, parameter, value)
