"""What a model's answer says, in whichever of the protocols it came: who answered, what it took,
how it ended, which tools it asks for. Pure, and never a failure: what cannot be read is unknown.

The protocols are in `torpor.core.dialects`. An answer is whole, or a stream of events.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from torpor.core.dialects import COUNT_MAX, HTTP_ERROR, Dialect, Reply, ToolCall, dialect_of
from torpor.core.pieces import Piece, Pieces

__all__ = ["HTTP_ERROR", "Reply", "TextDeltas", "ToolCall", "read_reply", "summary"]

# Of a summary: what has no room is left out, the text's end first.
_SUMMARY_CHARS_MAX = 256 * 1024  # as JSON: of the text, and of the tools
_CUT_CHARS = 20_000
_NAMES = ("model", "finish", "text")
_COUNTS = ("input_tokens", "cached_tokens", "output_tokens", "written_tokens")

# What an answer may raise that is not as its protocol says.
_MALFORMED = (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


def read_reply(value: Any) -> Reply:
    """`value` is a model operation's result: {status, headers, body}; of one whose body is stored
    apart, its `reply` is what that says."""
    if not isinstance(value, Mapping):
        return Reply()
    status, body, given = value.get("status"), value.get("body"), value.get("reply")
    if isinstance(body, str):
        reply = _read(body)
    else:
        reply = _summarized(given) if isinstance(given, Mapping) else Reply()
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


def summary(reply: Reply) -> dict[str, Any]:
    """What `read_reply` gives, as JSON beside a body that is stored apart."""
    fields = {key: value for key, value in asdict(reply).items() if value not in (None, ())}
    fields.pop("status", None)
    text, tools = fields.get("text"), fields.get("tools")
    if text is not None and len(json.dumps(text)) > _SUMMARY_CHARS_MAX:
        fields["text"] = f"{text[:_CUT_CHARS]}…"
    if tools is not None and len(json.dumps(tools)) > _SUMMARY_CHARS_MAX:
        del fields["tools"]
    return fields


def _summarized(given: Mapping[str, Any]) -> Reply:
    names = {key: given[key] for key in _NAMES if isinstance(given.get(key), str)}
    counts = {
        key: given[key]
        for key in _COUNTS
        if type(given.get(key)) is int and 0 <= given[key] <= COUNT_MAX
    }
    tools = []
    for tool in given["tools"] if isinstance(given.get("tools"), list | tuple) else ():
        match tool:
            case {"id": str() | None as id, "name": str(name), "arguments": str(arguments)}:
                tools.append(ToolCall(id, name, arguments))
    return Reply(**names, **counts, tools=tuple(tools))


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
