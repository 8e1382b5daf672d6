"""query: SQL over runs and their logs."""

from __future__ import annotations

import csv
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.cli.host import connect
from torpor.cli.inputs import value_given
from torpor.cli.options import Json
from torpor.core.errors import Invalid
from torpor.terminal.screen import say, show, show_json, table
from torpor.web import words

Object = dict[str, Any]


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    CSV = "csv"


def query(
    sql: Annotated[
        str, typer.Argument(metavar="SQL", help="A SELECT; @FILE and - (stdin) read it.")
    ],
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "--param",
            "-p",
            metavar="KEY=VALUE",
            help="A value for :KEY in the SQL: JSON, or else text.",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many rows at most.")] = 1000,
    timeout: Annotated[
        float, typer.Option(min=0.01, max=60, help="How many seconds it may take.")
    ] = 10,
    format: Annotated[Format, typer.Option(help="How rows are printed.")] = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Query runs and their logs with SQL. The views are in docs/sql.md."""
    named = dict(map(_parameter, parameters or []))
    found = connect().query(_read(sql), named, limit=limit, timeout_s=timeout)
    columns, rows = found["columns"], found["rows"]
    match Format.JSON if as_json else format:
        case Format.JSON:
            show_json([dict(zip(columns, row, strict=True)) for row in rows])
        case Format.CSV:
            _csv(columns, rows)
        case Format.TABLE:
            show(table(columns, [list(map(_cell, row)) for row in rows]))
            say(f"{words.count(len(rows), 'row')} in {words.duration(found['ms'] / 1000)}", "dim")
    if found["more"]:
        more = f"there are more rows than these {len(rows)}: see --limit, or LIMIT and OFFSET"
        say(more, "yellow")


def _csv(columns: list[str], rows: list[list[Any]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    sys.stdout.flush()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return words.line(str(value))


def _read(sql: str) -> str:
    if sql != "-" and not sql.startswith("@"):
        return sql
    try:
        read = sys.stdin.buffer.read() if sql == "-" else Path(sql[1:]).read_bytes()
        return read.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{sql.removeprefix('@')}: {error}") from error


def _parameter(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise Invalid(f"--param {text!r} is not KEY=VALUE")
    read = value_given(value, f"--param {key}")
    return key, value if isinstance(read, list | dict) else read
