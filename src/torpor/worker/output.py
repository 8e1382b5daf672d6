"""What of its agent's output a run's log has, and what is new.

An *offset* is a place in the stream as the log holds it, of all lives of the agent together: that
of entries, of `printed` in a step's end, of a snapshot, of the file beside the log. In its first
life it is how much the agent has printed. A recovered one is compared, byte for byte, with what
stands where it goes on. As long as it prints the same, nothing is appended. From the first byte
that differs on, all that it prints is, at the stream's end, from the beginning of that line and
on a line of its own, after an entry that says instead of what (`output.anew`); its offsets are
there from then on. What a step that is not run again had printed is skipped only where that
leads forward: an agent that has already come to the end stays there.

A later life that differs, too, is compared with what was printed instead before, in turn, so that
it repeats none of those lives either.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torpor.contextlog.output import Piece
from torpor.core.ids import OpId
from torpor.core.position import Position, StreamPosition
from torpor.machines.channel import Output, Skipped
from torpor.wire.link import STDERR, STDOUT
from torpor.worker.pen import Pen, Write
from torpor.worker.printed import Printed


@dataclass
class _Stream:
    """How far the agent's output was taken, in bytes; a character cut in two waits for its end."""

    name: str
    offset: int = 0
    after: int = 0  # an entry after which the log may hold what is printed next
    end: int | None = None  # how much there is of it, read when it is first needed
    printed: Printed | None = None  # what there is beyond `offset`, if anything
    decoder: codecs.IncrementalDecoder = field(
        default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    async def take(self, text: str, pen: Pen) -> list[Piece]:
        """What of `text` is new."""
        if text and self.end is None:
            self.printed = await pen.printed(self.name, self.after)
            self.end = self.printed.end
            # A fork has nothing of what its origin printed beyond their log.
            self.offset = min(self.offset, self.end)
        new, data = [], text.encode()
        while data and self.printed is not None:
            if self.offset == self.printed.end:
                await self.printed.close()
                self.printed = None
            else:
                more, data = await self._compare(self.printed, data)
                new += more
        if data:
            new.append(Piece(self.name, self.offset, data.decode(errors="replace")))
            self.offset = self.end = self.offset + len(data)
        return new

    async def _compare(self, printed: Printed, data: bytes) -> tuple[list[Piece], bytes]:
        """What is new now, and what of `data` is left to be looked at."""
        same = await printed.same(self.offset, data)
        self.offset, data = self.offset + same, data[same:]
        if not data or self.offset == printed.end:
            return [], data
        line = await printed.line(self.offset)
        begin, data = self.offset - len(line), line + data
        other = await printed.instead(begin)
        if other is not None:
            self.offset = other
            return [], data
        new = [Piece(self.name, printed.end, "\n")] if await printed.torn() else []
        begins = printed.end + len(new)
        new.append(Piece(self.name, begins, data.decode(errors="replace"), begin))
        self.offset = self.end = begins + len(data)
        await printed.close()
        self.printed = None
        return new, b""

    def skip(self, offset: int) -> None:
        """It goes on at `offset`, unless it is past that."""
        offset = offset if self.end is None else min(offset, self.end)
        if offset > self.offset:
            self.offset = offset
            self.decoder.reset()

    def position(self) -> StreamPosition:
        after = self.after if self.end is None else None
        if self.printed is not None and self.offset < self.printed.end:
            after = self.printed.before
        return StreamPosition(self.offset, self.decoder.getstate()[0], after)


class Streams:
    """Stdout and stderr of an agent, by the link's channels."""

    def __init__(self) -> None:
        self._streams = {STDOUT: _Stream("stdout"), STDERR: _Stream("stderr")}
        # Of each step that may be replayed, how far the log had them when it ended.
        self._printed: dict[OpId, Mapping[str, int]] = {}

    def expect(self, journal: Iterable[Mapping[str, Any]]) -> None:
        """What is in `journal` may be replayed."""
        self._printed |= {
            OpId(each["op"]): each["printed"] for each in journal if "printed" in each
        }

    async def take(self, item: Output | Skipped, pen: Pen) -> list[Write]:
        """What came, as writes. Raises HostError."""
        stream = self._streams[item.channel]
        if isinstance(item, Skipped):
            stream.skip(item.offset)
            return []
        text = stream.decoder.decode(item.data)
        return [pen.output(piece) for piece in await stream.take(text, pen)]

    def offsets(self) -> dict[str, int]:
        """How far each has come, by name."""
        return {stream.name: stream.offset for stream in self._streams.values()}

    def replayed(self, op: OpId) -> None:
        """A step was replayed: what its body had printed is not printed again."""
        offsets = self._printed.pop(op, {})
        for stream in self._streams.values():
            stream.skip(offsets.get(stream.name, 0))

    def added_to(self, position: Position) -> Position:
        """The position with what `take_up` takes of it."""
        streams = {channel: stream.position() for channel, stream in self._streams.items()}
        return replace(position, streams=streams, printed=dict(self._printed))

    def take_up(self, position: Position, seq: int) -> None:
        """Go on at the position of a snapshot that stands at `seq`."""
        self._printed = {**position.printed, **self._printed}
        for channel, at in position.streams.items():
            stream = self._streams[channel]
            stream.offset, stream.after = at.offset, seq if at.after is None else at.after
            stream.decoder.setstate((at.held, 0))
