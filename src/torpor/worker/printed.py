"""What a run's log, and the file beside it, hold of one of its output streams, to compare with what
a recovered agent prints.

Read forward only, a page at a time, and never further than the agent has come: memory is that of
a page, however much there is. The log itself is compared with rather than digests of it: those
would have to be kept for all of it, and tell neither where in a chunk it differs nor where that
line begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from typing import NamedTuple

from torpor.contextlog.entries import read_page
from torpor.contextlog.output import ANEW, OUTPUT, printed_before
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.worker.beside import Beside

# Of a line that is longer, only so much is printed again where it differs.
LAST_LINE_BYTES_MAX = 64 * 1024
_KINDS, _MANY = [OUTPUT, ANEW], 256
_CHUNK = 256 * 1024


class _Part(NamedTuple):
    """What stands at `offset` of the stream. `data` is None: so many bytes were dropped."""

    seq: int
    offset: int
    size: int
    data: bytes | None
    # Not a part but a beginning: what comes was printed instead of what stands there.
    instead: int | None = None


class Printed:
    """One stream from the entry after `after` on, up to its end when this life of it began."""

    def __init__(
        self, store: Store, beside: Beside, run: RunId, stream: str, after: int, end: int
    ) -> None:
        self.end = end
        self._store, self._beside = store, beside
        self._run, self._stream, self._after = run, stream, after
        self._parts: AsyncGenerator[_Part] | None = None
        self._part: _Part | None = None

    @property
    def before(self) -> int:
        """An entry after which what was not yet compared stands."""
        return self._after if self._part is None else self._part.seq - 1

    async def same(self, offset: int, data: bytes) -> int:
        """How much of `data` stands at `offset`: all, all up to the stream's end, or up to where
        it differs. Never looks back."""
        done = 0
        while done < len(data) and offset + done < self.end:
            part = await self._at(offset + done)
            if part is None:
                break
            begin = offset + done - part.offset
            new = data[done : done + part.size - begin]
            equal = len(new) if part.data is None else _common(part.data[begin:], new)
            done += equal
            if equal < len(new):
                break
        return done

    async def instead(self, offset: int) -> int | None:
        """Where the next is that another life printed instead of what stands at `offset`."""
        part = self._part
        while part is not None and part.instead != offset:
            part = await self._next()
        if part is None:
            return None
        await self._next()
        return part.offset

    async def close(self) -> None:
        if self._parts is not None:
            await self._parts.aclose()

    async def line(self, offset: int) -> bytes:
        """The beginning of the line in which `offset` is; what `same` last came to."""
        seq = self.before + 1
        read = partial(printed_before, run=self._run, stream=self._stream, seq=seq)
        end, text = await self._store.read(partial(read, offset=offset, size=LAST_LINE_BYTES_MAX))
        if offset > end:
            size = min(offset - end, LAST_LINE_BYTES_MAX)
            more = await self._kept(offset - size, size)
            text = text + more if len(more) == size else b""
        line = text[text.rfind(b"\n") + 1 :][-LAST_LINE_BYTES_MAX:]
        if len(line) == LAST_LINE_BYTES_MAX:  # at a character's beginning
            line = line[next((n for n in range(4) if line[n] & 0xC0 != 0x80), 0) :]
        return line

    async def torn(self) -> bool:
        """Whether the stream ends in the middle of a line."""
        read = partial(printed_before, run=self._run, stream=self._stream, seq=None)
        end, text = await self._store.read(partial(read, offset=self.end, size=1))
        if self.end > end:
            text = await self._kept(self.end - 1, 1)
        return not text.endswith(b"\n")

    async def _at(self, offset: int) -> _Part | None:
        """What has the byte at `offset`; None where nothing goes on there."""
        if self._parts is None:
            self._parts = self._read(offset)
            await self._next()
        while (part := self._part) is not None:
            if part.offset + part.size > offset:
                return part if part.offset <= offset else None
            if part.instead is not None and part.offset == offset:
                return None
            await self._next()
        return None

    async def _next(self) -> _Part | None:
        assert self._parts is not None
        last, self._part = self._part, await anext(self._parts, None)
        if self._part is None and last is not None:
            self._after = last.seq - 1
        return self._part

    async def _read(self, begin: int) -> AsyncGenerator[_Part]:
        after, reached, more = self._after, 0, True
        while more:
            page = await self._store.read(
                partial(read_page, run=self._run, after=after, kinds=_KINDS, limit=_MANY)
            )
            for entry in page.entries:
                after, data = entry["seq"], entry["data"]
                if data["stream"] != self._stream:
                    continue
                offset = data["offset"]
                if entry["kind"] == OUTPUT:
                    text = data["text"].encode()
                    yield _Part(after, offset, len(text), text)
                    reached = offset + len(text)
                    continue
                async for part in self._file(after, max(begin, reached), offset):
                    yield part
                reached = max(reached, offset)
                yield _Part(after, offset, 0, None, data["instead"])
            more = page.more
        async for part in self._file(after + 1, max(begin, reached), self.end):
            yield part

    async def _file(self, seq: int, begin: int, end: int) -> AsyncGenerator[_Part]:
        """What is beside the log of what it counts from `begin` to `end`."""
        while begin < end:
            data = await self._kept(begin, min(_CHUNK, end - begin))
            if not data:
                break
            yield _Part(seq, begin, len(data), data)
            begin += len(data)
        # What was dropped would be dropped again. What was lost with its host is another matter.
        if begin < end and await asyncio.to_thread(self._beside.full, self._run, self._stream):
            yield _Part(seq, begin, end - begin, None)

    async def _kept(self, offset: int, size: int) -> bytes:
        return await asyncio.to_thread(self._beside.piece, self._run, self._stream, offset, size)


def _common(one: bytes, other: bytes) -> int:
    size = min(len(one), len(other))
    if one[:size] == other[:size]:
        return size
    return next(n for n in range(size) if one[n] != other[n])
