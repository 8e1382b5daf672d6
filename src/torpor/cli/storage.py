"""snapshots, gc, result, export, import: what runs take on the disk, and what of it as files."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from torpor.cli import saving
from torpor.cli.exits import Exit
from torpor.cli.host import connect
from torpor.cli.options import Json, RunArg
from torpor.client import Client, refuse_remote, require_linux
from torpor.core.home import Home
from torpor.terminal.columns import Columns
from torpor.terminal.screen import err, facts, say, show, show_json, table
from torpor.web import words

_CHUNK = 1 << 20

Object = dict[str, Any]


def snapshots(
    run: RunArg,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte they need; exit 1 if one is wrong.")
    ] = False,
    pin: Annotated[
        str | None, typer.Option(metavar="SNAPSHOT", help="Pin it: keep it until you unpin it.")
    ] = None,
    unpin: Annotated[str | None, typer.Option(metavar="SNAPSHOT", help="Unpin it.")] = None,
    as_json: Json = False,
) -> None:
    """List the snapshots of a run."""
    if sum((verify, pin is not None, unpin is not None)) > 1:
        raise typer.BadParameter("--verify, --pin and --unpin exclude each other")
    client = Client(Home.find())
    if verify:
        _verify(client, run, as_json=as_json)
    elif (snapshot := pin or unpin) is not None:
        changed = client.pin(run, snapshot, pin is not None)
        if as_json:
            show_json(changed)
        else:
            say(f"{changed['id']} is {'' if changed['pinned'] else 'not '}pinned")
    else:
        found = client.snapshots(run)
        if as_json:
            show_json(found)
        elif not found:
            say("no snapshots yet")
        else:
            show(snapshot_table(found, time.time()))


def snapshot_table(found: list[Object], now: float) -> Columns:
    heads = ("SNAPSHOT", "EPOCH", "SEQ", "SIZE", "PAUSED", "FROZEN IN", "TAKEN", "")
    rows = [
        (
            s["id"],
            str(s["epoch"]),
            str(s["seq"]),
            words.size(s["bytes"]),
            "" if s["pause_ms"] is None else words.duration(s["pause_ms"] / 1000),
            "" if s["freeze_ms"] is None else words.duration(s["freeze_ms"] / 1000),
            words.ago(s["created_at"], now),
            "reclaimed" if s["reclaimed_at"] is not None else "pinned" if s["pinned"] else "",
        )
        for s in found
    ]
    return table(heads, rows)


def _verify(client: Client, run: str, *, as_json: bool) -> None:
    with err.status("reading every byte"):
        found = client.verify(run)
    if as_json:
        show_json(found)
    elif not found["snapshots"]:
        say("no snapshots, and no template")
    else:
        rows = [
            (
                s["id"],
                "template" if s["template"] else "snapshot",
                words.count(len(s["problems"]), "problem") if s["problems"] else "ok",
            )
            for s in found["snapshots"]
        ]
        show(table(("", "", ""), rows))
        for each in found["problems"]:
            say(f"{each['problem']}\n  touches {', '.join(each['runs']) or 'no run'}", "red")
    if found["problems"]:
        raise typer.Exit(Exit.FAILED)


def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be removed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove what no run needs any more. The server does this from time to time."""
    done = connect().gc(dry_run=dry_run)
    if as_json:
        show_json(done)
        return
    runs = {each["run"] for each in done["reclaimed"]} - {None}
    templates = [each for each in done["reclaimed"] if each["run"] is None]
    ended = words.count(len(done["reclaimed"]) - len(templates), "snapshot")
    files = words.count(done["manifests"] + done["layers"] + done["values"], "file")
    kept = words.count(done["kept_snapshots"], "snapshot")
    bases = words.count(done["kept_bases"], "base")
    rows = [
        (
            "would be reclaimed" if dry_run else "reclaimed",
            f"{ended} of {words.count(len(runs), 'run')}, "
            f"{words.count(len(templates), 'template')}",
        ),
        ("would be removed" if dry_run else "removed", f"{words.size(done['bytes'])}, {files}"),
        ("later", f"{words.size(done['young_bytes'])}, in use or put there just now"),
        ("kept", f"{words.size(done['kept_bytes'])}, {kept}, {bases}, and the templates"),
        *(("", f"{each['version'][:12]}  {each['why']}") for each in done["kept_templates"]),
    ]
    show(facts(rows))
    for problem in done["problems"]:
        say(problem, "red")


def result(
    run: RunArg,
    op: Annotated[
        str,
        typer.Argument(metavar="OPERATION", show_default=False, help="Such as step:render#1."),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it to this file.")
    ] = None,
    force: saving.Force = False,
) -> None:
    """Print an operation's result, whole: JSON, or the bytes that a step returned."""
    if output is not None:
        saving.check_free(output, force=force)
    chunks = Client(Home.find()).result(run, op)
    if output is not None:
        say(f"{output}: {words.size(saving.save(output, chunks, private=True))}")
        return
    saving.to_stdout(chunks)
    if sys.stdout.isatty():
        say("")


def export(
    run: RunArg,
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    snapshot: Annotated[
        str | None,
        typer.Option(metavar="SNAPSHOT", help="Export this snapshot instead of the newest."),
    ] = None,
    force: saving.Force = False,
    as_json: Json = False,
) -> None:
    """Write a run to one file, from which another torpor can go on.

    The run stays here too.
    """
    saving.check_free(file, force=force)
    size = saving.save(file, Client(Home.find()).export(run, snapshot), private=True)
    if as_json:
        show_json({"file": str(file), "bytes": size})
    else:
        say(f"{file}: {words.size(size)}. It has the run's log, and its machine's memory if any")


def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False)],
    as_json: Json = False,
) -> None:
    """Take in a run that another torpor exported. It goes on here."""
    if not file.is_file():
        raise typer.BadParameter(f"there is no file {file}")
    taken = connect().import_run(_chunks(file))
    if as_json:
        show_json(taken)
    else:
        say(f"{taken['id']}: {taken['state']}")


def backup(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    with_key: Annotated[
        bool,
        typer.Option("--with-key", help="Include host.key, which opens the snapshots."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy runs, logs and snapshots to a new directory, while they are in use.

    Not in it: host.key (but see --with-key), directories of plain processes,
    output beyond the logs, prices.toml, egress.toml.
    """
    refuse_remote("torpor backup")
    with err.status("copying"):
        copied = connect().backup(str(directory.absolute()), key=with_key)
    if as_json:
        show_json(copied)
    else:
        _say_backup(copied)
        files = words.count(copied["files"], "file")
        say(f"{copied['directory']}: {words.size(copied['bytes'])} in {files}")
        if not copied["key"]:
            say(
                "without host.key: keep a copy of that file elsewhere; nothing else "
                "opens these snapshots"
            )
    for problem in copied["problems"]:
        say(problem, "red")
    if copied["problems"]:
        raise typer.Exit(Exit.FAILED)


def restore(
    directory: Annotated[Path, typer.Argument(metavar="DIR", show_default=False)],
    as_json: Json = False,
) -> None:
    """Make a data directory (TORPOR_HOME) from a backup."""
    refuse_remote("torpor restore")
    require_linux()
    from torpor.control.storage.backup import restore as make  # there is no server yet

    copied = make(Home.find(), directory.absolute())
    if as_json:
        show_json(copied)
        return
    _say_backup(copied)
    say(f"{copied['home']}: restored; torpor up goes on with its runs")
    if not copied["key_there"]:
        say(f"it needs host.key: put it at {Home.find().host_key} first", "yellow")


def _say_backup(copied: Object) -> None:
    unfinished = f"{copied['unfinished']} of them unfinished"
    frozen = words.count(copied["snapshots"], "snapshot")
    say(f"{words.count(copied['runs'], 'run')}, {unfinished}, {frozen}")


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            yield chunk
