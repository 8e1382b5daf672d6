"""The JSON objects in an answer's bytes, as each becomes whole: events of a stream
(`text/event-stream`), one object, objects in an array or one after another.

Pure, linear, of bounded memory, and never a failure: what cannot be read is skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

Piece = dict[str, Any]

PIECE_BYTES_MAX = 32 << 20  # one that is longer, and all after it, is not read
_LINE_END = re.compile(rb"\r\n?|\n")
_OUTSIDE_STRING = re.compile(rb'["{}]')
_INSIDE_STRING = re.compile(rb'["\\]')
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"


class Pieces:
    """Of one answer, fed with its bytes in whatever portions they come."""

    def __init__(self) -> None:
        self._begin: bytes | None = b""  # what came before the first byte that says the form
        self._form: _Events | _Objects | None = None

    def feed(self, data: bytes) -> Iterator[Piece]:
        """The objects that `data` completes."""
        if self._begin is not None:
            # No longer than a BOM and the blanks of one portion.
            data = (self._begin + data).lstrip(_BLANK)
            if _BOM.startswith(data[:3]) and len(data) <= len(_BOM):
                self._begin = data
                return
            self._begin = None
            data = data.removeprefix(_BOM).lstrip(_BLANK) if data.startswith(_BOM) else data
            self._form = _Objects() if data[:1] in (b"{", b"[") else _Events()
        if self._form is not None:
            yield from self._form.feed(data)
            if self._form.pending_bytes > PIECE_BYTES_MAX:
                self._form = None

    def end(self) -> Iterator[Piece]:
        """What the answer's end completes: events are often not ended otherwise."""
        if isinstance(self._form, _Events):
            yield from self._form.feed(b"\n\n")


class _Events:
    def __init__(self) -> None:
        self._line: list[bytes] = []  # that has not ended
        self._data: list[bytes] = []  # lines of the event that has not ended
        self._after_cr = False
        self.pending_bytes = 0

    def feed(self, data: bytes) -> Iterator[Piece]:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if not data:
            return
        self._after_cr = data.endswith(b"\r")
        first, *others = _LINE_END.split(data)
        self._line.append(first)
        self.pending_bytes += len(first)
        for begun in others:
            yield from self._ended(b"".join(self._line))
            self._line = [begun]
            self.pending_bytes += len(begun)

    def _ended(self, line: bytes) -> Iterator[Piece]:
        if line:
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value)
            else:
                self.pending_bytes -= len(line)
            return
        lines, self._data, self.pending_bytes = self._data, [], 0
        found = list(_objects([b"\n".join(lines)]))
        # Some servers forget the blank line between two events.
        yield from found or (_objects(lines) if len(lines) > 1 else ())


class _Objects:
    def __init__(self) -> None:
        self._parts: list[bytes] = []  # of the object that has not ended
        self._depth = 0
        self._in_string = self._escaped = False
        self.pending_bytes = 0

    def feed(self, data: bytes) -> Iterator[Piece]:
        at = start = 0
        if self._escaped and data:
            at, self._escaped = 1, False
        while True:
            found = (_INSIDE_STRING if self._in_string else _OUTSIDE_STRING).search(data, at)
            if found is None:
                break
            at, sign = found.end(), found[0]
            if sign == b"\\":
                at += 1
                self._escaped = at > len(data)
            elif sign == b'"':
                self._in_string = not self._in_string and self._depth > 0
            elif sign == b"{":
                start = found.start() if self._depth == 0 else start
                self._depth += 1
            elif self._depth > 0:
                self._depth -= 1
                if self._depth == 0:
                    parts, self._parts, self.pending_bytes = self._parts, [], 0
                    yield from _objects([b"".join([*parts, data[start:at]])])
        if self._depth > 0:
            self._parts.append(data[start:])
            self.pending_bytes += len(data) - start


def _objects(texts: Iterable[bytes]) -> Iterator[Piece]:
    for text in texts:
        try:
            found = json.loads(text.decode(errors="replace"))
        except (ValueError, RecursionError):  # `[DONE]`, for one
            continue
        if isinstance(found, dict):
            yield found
