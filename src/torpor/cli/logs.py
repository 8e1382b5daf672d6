"""logs: a run's context log in words."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from torpor.cli import words
from torpor.cli.options import Json, RunArg
from torpor.cli.screen import say, show_json
from torpor.client import Appended, Back, Client, Lost
from torpor.model import artifacts
from torpor.model.home import Home
from torpor.model.ids import op_kind

_IN_OP = ("kind", "name", "digest", "hint")  # its id says the first two; the rest is not for people

Object = dict[str, Any]


def logs(
    run: RunArg,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")
    ] = False,
    stream: Annotated[
        str | None,
        typer.Option(metavar="STREAM", help="Only what it printed to stdout or stderr, all of it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """A run's context log. With -f and --json, one JSON document a line."""
    client = Client(Home.find())
    found = client.run(run)["id"]
    if stream is not None:
        if stream not in ("stdout", "stderr") or follow or as_json:
            raise typer.BadParameter("--stream is stdout or stderr, without -f and --json")
        for chunk in client.output(found, stream):
            sys.stdout.write(words.plain(chunk.decode(errors="replace")))
        return
    if not follow:
        entries = client.entries(found)
        if as_json:
            show_json(list(entries))
        else:
            _print_entries(entries)
        return
    for event in client.follow(found):
        match event:
            case Appended(entry) if as_json:
                sys.stdout.write(json.dumps(entry) + "\n")
                sys.stdout.flush()
            case Appended(entry):
                _print_entries([entry])
            case Lost():
                say("the server is gone; waiting for it to come back (Ctrl-C leaves)", "dim")
            case Back():
                say("the server is back", "dim")


def _print_entries(entries: Iterable[Object]) -> None:
    now = time.time()
    style = sys.stdout.isatty()
    for entry in entries:
        head = f"{words.clock(entry['at'], now)}  {entry['kind']:<14}"
        shown = f"\x1b[2m{head}\x1b[0m" if style else head
        sys.stdout.write(f"{shown}  {entry_text(entry)}".rstrip() + "\n")
    sys.stdout.flush()


def entry_text(entry: Object) -> str:
    """What an entry says, on one line, or as many as the agent printed."""
    data, op = entry["data"], entry["op"]
    match entry["kind"]:
        case "output":
            return words.plain(data["text"]).rstrip("\n")
        case "output.beside":
            return f"{words.size(data['limit'])} are here: all of it with --stream stdout or stderr"
        case "output.anew":
            return f"{data['stream']}: recovered, it prints otherwise than before"
        case "note.log":
            return words.note(data)
        case "snapshot" if "bytes" in data:
            return f"{words.size(data['bytes'])} {data.get('snapshot', '')}".rstrip()
        case "run.failed" if isinstance(data.get("error"), dict):
            return words.error_line(data["error"])
        case "op.end" if isinstance(data.get("error"), dict):
            return f"{op}  {words.error_line(data['error'])}"
        case "op.end" if isinstance(data.get("blob"), dict):
            apart = "" if op_kind(op) in artifacts.KINDS else ", kept apart"
            return f"{op}  {words.size(data['blob']['bytes'])}{apart}"
        case "op.end":
            by_hand = "  (set by hand)" if "set" in data else ""
            return f"{op}  {words.compact(data.get('value'))}{by_hand}"
        case "op.retried":
            return f"{op}  its failure is taken back"
        case _ if op:
            told = {k: v for k, v in data.items() if k not in _IN_OP and v is not None}
            return f"{op}  {words.compact(told) if told else ''}".rstrip()
        case _:
            return words.compact(data) if data else ""
