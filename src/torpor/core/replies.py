"""What a model's answer says, in whichever of the protocols it came: who answered, what it took,
how it ended, which tools it asks for. Pure, and never a failure: what cannot be read is unknown.

The protocols are in `torpor.core.dialects`. An answer is whole, or a stream of events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torpor.core.dialects import HTTP_ERROR, Dialect, Reply, ToolCall, dialect_of
from torpor.core.pieces import Piece, Pieces

__all__ = ["HTTP_ERROR", "Reply", "TextDeltas", "ToolCall", "read_reply"]

# What an answer may raise that is not as its protocol says.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


def read_reply(value: Any) -> Reply:
    """`value` is a model operation's result: {status, headers, body}."""
    if not isinstance(value, Mapping):
        return Reply()
    status, body = value.get("status"), value.get("body")
    reply = _read(body) if isinstance(body, str) else Reply()
    return replace(reply, status=status) if type(status) is int else reply


def _read(body: str) -> Reply:
    reader = Pieces()
    pieces = [*reader.feed(body.encode(errors="replace")), *reader.end()]
    try:
        dialect = next((each for each in map(dialect_of, pieces) if each is not None), None)
        if dialect is not None:
            return dialect.read(pieces[0] if len(pieces) == 1 else dialect.join(pieces))
    except _MALFORMED:
        pass
    return Reply()


class TextDeltas:
    """The text that an answer's bytes add, as they come, in whatever portions: a stream's piece by
    piece, a whole answer's at its end. All of it together is `read_reply`'s."""

    def __init__(self) -> None:
        self._pieces = Pieces()
        self._dialect: Dialect | None = None

    def feed(self, data: bytes) -> str:
        """The new text; empty where there is none yet. Never fails."""
        return "".join(map(self._text, self._pieces.feed(data)))

    def end(self) -> str:
        """What the answer's end completes: events are often not ended otherwise."""
        return "".join(map(self._text, self._pieces.end()))

    def _text(self, piece: Piece) -> str:
        try:
            self._dialect = self._dialect or dialect_of(piece)
            return "" if self._dialect is None else self._dialect.new_text(piece)
        except _MALFORMED:
            return ""
