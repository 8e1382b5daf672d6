"""Commands beside an agent (`torpor exec`): what is asked for, and the stream that tells of it.

The stream is frames: one byte for the kind, four for the length, big-endian, then the payload.

    0  an event, a JSON object: {} (nothing, so that each side notices when the other is gone),
       {exec, run}, {waits: why}, {began: true}, and last {code, signal} or {error: problem}
    1  bytes that the command wrote to stdout, or to its terminal
    2  bytes that it wrote to stderr
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torpor.core.environment import check_env
from torpor.core.errors import Invalid

MEDIA_TYPE = "application/vnd.torpor.exec"
EVENT, STDOUT, STDERR = 0, 1, 2
FRAME_BYTES_MAX = 1 << 20
ARGUMENTS_MAX = 1000
COMMAND_CHARS_MAX = 100_000  # of all arguments together: the system takes some more
DIR_CHARS_MAX = 4096
SIDE_MAX = 10_000  # of a terminal's
SIGNALS = ("HUP", "INT", "QUIT", "KILL", "TERM", "USR1", "USR2")
# What a shell says of one that it could not start.
CANNOT_EXECUTE, NOT_FOUND = 126, 127

_HEAD = struct.Struct(">BI")


class Size(NamedTuple):
    """Of a terminal, in characters."""

    rows: int
    cols: int


@dataclass(frozen=True)
class CommandRequest:
    """`dir` is below the agent's working directory, or absolute; `env` is over the agent's. With
    `stdin` there is more to come for it. With a `size` it has a terminal of its own. Not as `root`
    it is as its agent's user."""

    command: tuple[str, ...]
    dir: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    root: bool = False
    stdin: bool = False
    size: Size | None = None

    def check(self) -> CommandRequest:
        """Raises Invalid."""
        if not self.command or not self.command[0]:
            raise Invalid("no command was given", hint="Give a program and its arguments.")
        if len(self.command) > ARGUMENTS_MAX:
            raise Invalid(f"a command has at most {ARGUMENTS_MAX:,} arguments")
        if (chars := sum(map(len, self.command))) > COMMAND_CHARS_MAX:
            raise Invalid(
                f"the command has {chars:,} characters; the limit is {COMMAND_CHARS_MAX:,}"
            )
        if any("\0" in text for text in (*self.command, self.dir or "")):
            raise Invalid("a command and its directory cannot contain a NUL")
        if self.dir is not None and not 0 < len(self.dir) <= DIR_CHARS_MAX:
            raise Invalid(f"a directory has 1 to {DIR_CHARS_MAX:,} characters")
        if self.size is not None and not all(1 <= side <= SIDE_MAX for side in self.size):
            raise Invalid(f"a terminal has 1 to {SIDE_MAX:,} rows and columns")
        check_env(self.env, "env", anything=True)
        return self


def frame(kind: int, payload: bytes) -> bytes:
    return _HEAD.pack(kind, len(payload)) + payload


def event(**fields: Any) -> bytes:
    return frame(EVENT, json.dumps(fields).encode())


class Frames:
    """Bytes in, frames out."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def take(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """(kind, payload) of each that `data` completes. Raises Invalid."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _HEAD.size:
            kind, length = _HEAD.unpack_from(buffer)
            if length > FRAME_BYTES_MAX:
                raise Invalid("this is not a command's stream")
            end = _HEAD.size + length
            if len(buffer) < end:
                return
            payload = bytes(buffer[_HEAD.size : end])
            del buffer[:end]
            yield kind, payload
