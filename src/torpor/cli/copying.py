"""cp: files out of a run."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

import typer

from torpor.cli import fetching, saving
from torpor.client import Client
from torpor.core.errors import Invalid, NotFound
from torpor.core.home import Home
from torpor.core.states import FINAL, RunState
from torpor.terminal.screen import say
from torpor.web import words

Object = dict[str, Any]

_SHOWN_MAX = 8


class Source(NamedTuple):
    run: str
    path: str  # without "." and the like; empty: all there is


def cp(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN:PATH",
            show_default=False,
            help="The name of an artifact, or a file or directory where the agent works.",
        ),
    ],
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST",
            show_default=False,
            help="A file, or a directory to put it in; - is stdout.",
        ),
    ],
    version: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="A version of an artifact, instead of the newest."),
    ] = None,
    force: saving.Force = False,
) -> None:
    """Copy files out of a run: published ones, or files in its working directory.

    An artifact of that name comes first. For other files, a sleeping run gets its machine.
    """
    wanted = parse(source, destination)
    client = Client(Home.find())
    found = client.artifacts(wanted.run)
    named = [each for each in found if each["name"] == wanted.path]
    if named:
        if version is not None and version not in [each["version"] for each in named]:
            raise NotFound(f"{wanted.path} has no version {version}")
        _copy_artifact(client, wanted, destination, version, force=force)
        return
    if version is not None:
        raise NotFound(f"{wanted.run} has no artifact {wanted.path!r}", hint=_known(found))
    try:
        _copy_working(client, wanted, destination, force=force)
    except NotFound as error:
        below = _below(found, wanted.path)
        if not below:
            raise NotFound(error.message, hint=_known(found)) from error
        _copy_all(client, wanted, below, destination, force=force)


def _known(found: list[Object]) -> str:
    names = sorted({each["name"] for each in found})
    more = f" and {len(names) - _SHOWN_MAX:,} more" if len(names) > _SHOWN_MAX else ""
    return f"Artifacts: {', '.join(names[:_SHOWN_MAX])}{more}." if names else "It has no artifacts."


def _copy_working(client: Client, wanted: Source, destination: str, *, force: bool) -> None:
    """Raises NotFound where the run has no such file, or no working directory any more."""
    run = client.run(wanted.run)
    if RunState(run["state"]) in FINAL:
        why = "and has ended, its working directory with it"
        raise NotFound(f"{run['id']} has no artifact {wanted.path!r}, {why}")
    written = fetching.fetch(client, run["id"], wanted.path, destination, force=force)
    if destination == "-":
        return
    size = words.size(sum(each.stat(follow_symlinks=False).st_size for each in written))
    if len(written) == 1:
        say(f"{written[0]}: {size}")
    else:
        say(f"{destination}: {words.count(len(written), 'file')}, {size}")


def parse(source: str, destination: str) -> Source:
    """Raises Invalid."""
    run, colon, path = source.partition(":")
    if not colon or not re.fullmatch(r"\w+", run):
        if re.match(r"\w+:", destination):
            raise Invalid(
                "files cannot be copied into a run: no log would have them, and a "
                "crash would lose them",
                hint="Give them to a run when it starts (torpor run --file PATH), or "
                "send data as an event (torpor send).",
            )
        raise Invalid(f"{source!r} is not RUN:PATH", hint="For example: torpor cp RUN:report.pdf .")
    parts = PurePosixPath(path).parts
    if ".." in parts:
        raise Invalid(f"{path!r} leads out of the run's working directory")
    return Source(run, "/".join(part for part in parts if part != "."))


def _copy_artifact(
    client: Client, wanted: Source, destination: str, version: int | None, *, force: bool
) -> None:
    if destination == "-":
        saving.to_stdout(client.artifact(wanted.run, wanted.path, version=version))
        return
    target = fetching.target_of(destination, wanted.path)
    saving.check_free(target, force=force)
    chunks = client.artifact(wanted.run, wanted.path, version=version)
    say(f"{target}: {words.size(saving.save(target, chunks))}")


def _below(found: list[Object], path: str) -> list[Object]:
    """The newest of each artifact in the directory `path`."""
    newest: dict[str, Object] = {}
    for each in found:
        if not path or each["name"].startswith(f"{path}/"):
            newest.setdefault(each["name"], each)
    return list(newest.values())


def _copy_all(
    client: Client, wanted: Source, below: list[Object], destination: str, *, force: bool
) -> None:
    """A directory of artifacts, as a directory: as `cp -r` does, into one that is there."""
    if destination == "-":
        raise Invalid(f"{wanted.path or 'this'} is several files", hint="Name one of them.")
    root = Path(destination)
    if root.is_dir() and wanted.path:
        root = root / PurePosixPath(wanted.path).name
    skip = len(wanted.path) + 1 if wanted.path else 0
    targets = [(each, root / each["name"][skip:]) for each in below]
    for _, target in targets:
        os.makedirs(target.parent, exist_ok=True)  # noqa: PTH103
        saving.check_free(target, force=force)
    for each, target in targets:
        chunks = client.artifact(wanted.run, each["name"], version=each["version"])
        say(f"{target}: {words.size(saving.save(target, chunks))}")
