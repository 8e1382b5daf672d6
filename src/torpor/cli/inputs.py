"""A run's input as it is typed: `--input JSON`, and each `-i KEY=VALUE` over it.

What a VALUE is, the agent's annotation says: text, or JSON. `@FILE` is a file of this host: its
text where text is taken, its bytes where bytes are, and where a Path is, the file itself, which the
run is given (`torpor.cli.given`).
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from torpor.cli.given import Files, usage
from torpor.client.files import size_of
from torpor.core import inputs, jsonvalues, schemas
from torpor.core.errors import TorporError
from torpor.core.runfiles import FILE, INPUT_BYTES_MAX
from torpor.web import words


@dataclass(frozen=True)
class InputGiven:
    whole: dict[str, Any]
    pairs: dict[str, str]
    files: dict[str, Path]

    @classmethod
    def read(cls, whole: str | None, pairs: list[str]) -> InputGiven:
        """Raises BadParameter."""
        given = _object(whole) if whole is not None else {}
        texts: dict[str, str] = {}
        files: dict[str, Path] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise typer.BadParameter(f"-i {pair!r} is not KEY=VALUE")
            texts.pop(key, None)
            files.pop(key, None)
            if value.startswith("@"):
                files[key] = _there(value[1:])
            else:
                texts[key] = value
        return cls(given, texts, files)

    @property
    def described(self) -> bool:
        """What it is depends on how the agent describes itself."""
        return bool(self.pairs or self.files)

    def of(self, agent: Mapping[str, Any] | None, carried: Files | None = None) -> dict[str, Any]:
        """The input that it is to an agent that described itself so. What the run has to be given
        for that is added to `carried`; None: it can be given nothing. Raises BadParameter."""
        root = agent and agent.get("schema")
        typed: dict[str, Any] = {}
        for key, text in self.pairs.items():
            schema = agent and inputs.schema_of(agent, key)
            typed[key] = value_given(text, f"-i {key}", schema, agent)
        for key, path in self.files.items():
            taken = schemas.takes_file(agent and inputs.schema_of(agent, key), root)
            typed[key] = _file(key, path, taken, carried)
        return {**self.whole, **typed}


def _there(name: str) -> Path:
    path = Path(name)
    if not path.is_dir():
        try:
            size_of(path)
        except TorporError as error:
            raise typer.BadParameter(f"cannot read {name!r}: {error.message}") from error
    return path


def _file(key: str, path: Path, taken: str | None, carried: Files | None) -> Any:
    """What `-i key=@path` is where such a file is taken."""
    option = f"-i {key}=@{path}"
    if taken == "path" and carried is None:
        raise typer.BadParameter(f"{option}: only torpor run can give files to a run")
    if taken == "path" and carried is not None:
        with usage(option):
            return carried.add_input(key, path)
    if path.is_dir():
        raise typer.BadParameter(
            f"{option} is a directory; annotate the parameter Path, or give it with --file"
        )
    if taken != "bytes":
        return _text(option, path, annotated=taken is not None)
    if (size := size_of(path)) > INPUT_BYTES_MAX:
        raise typer.BadParameter(
            f"{option} has {size:,} bytes, and a bytes parameter takes at most "
            f"{INPUT_BYTES_MAX:,}; annotate it Path"
        )
    if carried is not None:
        with usage(option):
            return {FILE: carried.add_input(key, path)}
    return {"$bytes": base64.b64encode(path.read_bytes()).decode()}


def _text(option: str, path: Path, *, annotated: bool) -> str:
    if (size := size_of(path)) > jsonvalues.ENTRY_BYTES_MAX:
        raise typer.BadParameter(
            f"{option} has {size:,} bytes, and an input takes at most "
            f"{jsonvalues.ENTRY_BYTES_MAX:,}; annotate the parameter Path or bytes, "
            "or give the file with --file"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        what = "takes text" if annotated else "has no annotation, and so takes text"
        raise typer.BadParameter(
            f"{option} is not text (byte {error.start} is not UTF-8), and the "
            f"parameter {what}; annotate it Path or bytes, or give the file with "
            "--file"
        ) from error
    except OSError as error:
        raise typer.BadParameter(f"cannot read {path}: {error.strerror}") from error


def _object(whole: str) -> dict[str, Any]:
    text: str | bytes = whole
    if whole == "-":
        text = sys.stdin.buffer.read()
    elif whole.startswith("@"):
        text = file_text(whole[1:])
    value = json_given(text, "--input")
    if not isinstance(value, dict):
        raise typer.BadParameter("--input must be a JSON object: the agent's parameters by name")
    return value


def json_given(text: str | bytes, option: str) -> Any:
    """The value of an option that is JSON. Raises BadParameter."""
    try:
        return jsonvalues.read(text)
    except jsonvalues.Refused as error:
        raise typer.BadParameter(f"{option} {error}") from error
    except ValueError as error:
        raise typer.BadParameter(f"{option} is not valid JSON: {error}") from error


def value_given(
    text: str, option: str, schema: Any = None, agent: Mapping[str, Any] | None = None
) -> Any:
    """The value of an option that is JSON or else text, or as `schema` says, which is in that of
    an agent. Raises BadParameter."""
    try:
        return schemas.from_text(text, schema, agent and agent.get("schema"))
    except jsonvalues.Refused as error:
        raise typer.BadParameter(f"{option}: {words.line(text, 40)} {error}") from error


def file_text(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"cannot read {name!r}: {error}") from error
