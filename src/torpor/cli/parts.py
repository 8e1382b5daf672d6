"""Answers of models in what people read of a log, while they come.

Their text is in entries of its own (op.part), many a second. Who reads what there is, reads the
answer where it ended, and of one under way what has come so far, as one entry. Who follows sees
the text as it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torpor.core.replies import read_reply
from torpor.web import words

PART = "op.part"

Object = dict[str, Any]


def settled(entries: Iterable[Object]) -> Iterator[Object]:
    """Of an answer that has ended, its end alone; what came of others comes last."""
    held: dict[str, Object] = {}
    for entry in entries:
        if not _held(entry, held):
            yield entry
    yield from held.values()


def followed(entries: Iterable[Object], known: int) -> Iterator[Object]:
    """The same up to the entry `known`, and all that comes after it."""
    held: dict[str, Object] = {}
    for entry in entries:
        if entry["seq"] > known or not _held(entry, held):
            if entry["seq"] > known:
                yield from _taken(held)
            yield entry
        if entry["seq"] == known:
            yield from _taken(held)


def _held(entry: Object, held: dict[str, Object]) -> bool:
    """Whether the entry is one of a part, which is held then with those before it."""
    op = entry["op"]
    if entry["kind"] == "op.end":
        held.pop(op, None)
    if entry["kind"] != PART:
        return False
    before = held[op]["data"]["text"] if op in held else ""
    held[op] = {**entry, "data": {"text": before + entry["data"]["text"]}}
    return True


def _taken(held: dict[str, Object]) -> list[Object]:
    taken = list(held.values())
    held.clear()
    return taken


def end_words(entry: Object) -> str:
    """How an answer ended whose text was shown."""
    reply = read_reply(entry["data"].get("value"))
    shown = [
        str(reply.status or ""),
        words.line(reply.model or "", 80),
        *(f"→ {words.line(tool.name, 80)}({words.line(tool.arguments)})" for tool in reply.tools),
        "" if reply.input_tokens is None else f"{reply.input_tokens} in",
        "" if reply.output_tokens is None else f"{reply.output_tokens} out",
        words.line(reply.finish or "", 80),
    ]
    return f"{entry['op']}  {', '.join(filter(None, shown))}"
