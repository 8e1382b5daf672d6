"""What following a run brings, and the events of a stream that it is read from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Appended:
    """An entry of the followed run's log."""

    entry: dict[str, Any]


@dataclass(frozen=True)
class Ended:
    """The followed run has ended in this state; nothing comes after."""

    state: str


@dataclass(frozen=True)
class Lost:
    """The server went away. The follower keeps trying."""


@dataclass(frozen=True)
class Back:
    """The server is back; what was appended meanwhile follows."""


Followed = Appended | Ended | Lost | Back


def parse_events(lines: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """(name, data) of each whole server-sent event; comments are skipped."""
    name, data = "message", ""
    for line in lines:
        if line.startswith("event: "):
            name = line[len("event: ") :]
        elif line.startswith("data: "):
            data += line[len("data: ") :]
        elif not line:
            if data:
                yield name, json.loads(data)
            name, data = "message", ""
