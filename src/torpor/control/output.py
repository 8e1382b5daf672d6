"""How far an agent's output was taken."""

from __future__ import annotations

import codecs
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torpor.control.conversation import Output, Skipped
from torpor.control.pen import Pen, Write
from torpor.wire.link import STDERR, STDOUT


@dataclass
class _Stream:
    """How far the agent's output was taken, in bytes; a character cut in two waits for its end."""

    name: str
    offset: int
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )


class Taken(NamedTuple):
    """What text some output has completed, and where in the stream that stands."""

    stream: str
    offset: int
    text: str


class Streams:
    """Stdout and stderr of an agent, by the link's channels."""

    def __init__(self) -> None:
        self._streams = {STDOUT: _Stream("stdout", 0), STDERR: _Stream("stderr", 0)}
        # Of each step that may be replayed, how far the log had them when it ended.
        self._printed: dict[str, dict[str, int]] = {}

    def expect(self, journal: Iterable[Mapping[str, Any]]) -> None:
        """What is in `journal` may be replayed."""
        self._printed |= {each["op"]: each["printed"] for each in journal if "printed" in each}

    def hear(self, item: Output | Skipped, pen: Pen) -> list[Write]:
        """What was heard, as writes."""
        if isinstance(item, Skipped):
            self.skip(item.channel, item.offset)
            return []
        taken = self.take(item.channel, item.data)
        return [pen.output(*taken)] if taken.text else []

    def take(self, channel: int, data: bytes) -> Taken:
        """Take `data` in."""
        stream = self._streams[channel]
        text = stream.decoder.decode(data)
        offset, stream.offset = stream.offset, stream.offset + len(text.encode())
        return Taken(stream.name, offset, text)

    def offsets(self) -> dict[str, int]:
        """How far each has come, by name."""
        return {stream.name: stream.offset for stream in self._streams.values()}

    def replayed(self, op: str) -> None:
        """A step was replayed: what its body had printed is not printed again."""
        offsets = self._printed.pop(op, {})
        for channel, stream in self._streams.items():
            self.skip(channel, offsets.get(stream.name, 0))

    def skip(self, channel: int, offset: int) -> None:
        """One stream goes on at `offset`, unless it is past that."""
        stream = self._streams[channel]
        if offset > stream.offset:
            stream.offset = offset
            stream.decoder.reset()

    def to_json(self) -> dict[str, Any]:
        streams = {
            str(channel): {
                "offset": stream.offset,
                "held": b64encode(stream.decoder.getstate()[0]).decode(),
            }
            for channel, stream in self._streams.items()
        }
        return {"streams": streams, "printed": self._printed}

    def take_up(self, state: Mapping[str, Any]) -> None:
        """Go on from `to_json`."""
        self._printed = state.get("printed", {}) | self._printed
        for channel, each in state.get("streams", {}).items():
            stream = self._streams[int(channel)]
            stream.offset = each["offset"]
            stream.decoder.setstate((b64decode(each["held"]), 0))
