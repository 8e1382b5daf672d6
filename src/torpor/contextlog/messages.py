"""Requests to models, and others that are recorded, stored once by content.

A conversation is sent whole with each call, a little longer every time: as it comes, a hundred
calls would store its beginning a hundred times. So a request's body is cut where its JSON has
arrays at the top (`messages`, `input`, `tools`), and put together again when it is read:

    {"model": "m", "messages": [  A  , B  , C  ], "tools": [  T  ], "seed": 7}
    └─────────── text ─────────┘└ conversation ┘└── text ──┘└ … ┘└── text ──┘

    messages        digest → text: an item as it was written, with the comma before it
    conversations   digest → the conversation before, and the message that it ends with

An entry names the last of each conversation, however long that is; one more call costs one row a
new message. Conversations whose beginnings differ (a window that slides) share messages still.
Bodies come back byte by byte: what is cut is text, never parsed and written anew.

What a deleted run alone has sent goes with it (`torpor.contextlog.deletion`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any

from sqlalchemy import Connection, Table, bindparam, insert, literal, select

from torpor.contextlog import schema

# A shorter body is kept in its entry, and so is a shorter text between conversations.
BODY_CHARS_MIN = 1024
TEXT_CHARS_MIN = 200
_REQUEST_CHARS_MAX = 500  # digests in one query
_SPACE = " \t\n\r"

_messages, _conversations = schema.messages, schema.conversations
_scan = json.JSONDecoder().raw_decode

RECORDED = ("model", "http")  # kinds of operations that are requests
BODIES = {"parts": "body", "parts_b64": "body_b64"}  # what a body is stored as

Part = str | list[str]  # text; or the items of an array, as they are written


def fold(c: Connection, request: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a recorded request with `parts` for its body, `parts_b64` for one that is no
    text: what `unfold` turns back."""
    encoded = request.get("body_b64")
    if isinstance(encoded, str) and len(encoded) >= BODY_CHARS_MIN and not _surrogates(encoded):
        rest = {key: value for key, value in request.items() if key != "body_b64"}
        return {**rest, "parts_b64": [[_keep(c, [encoded])]]}
    body = request.get("body")
    if not isinstance(body, str) or len(body) < BODY_CHARS_MIN or _surrogates(body):
        return dict(request)
    parts: list[Any] = []
    for part in cut(body):
        if isinstance(part, list):
            parts.append([_keep(c, part)])
        elif len(part) < TEXT_CHARS_MIN:
            parts.append(part)
        else:
            parts.append([_keep(c, [part])])
    return {**{key: value for key, value in request.items() if key != "body"}, "parts": parts}


def unfold(c: Connection, kept: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a recorded request as it was folded."""
    for parts, body in BODIES.items():
        if parts in kept:
            texts = (p if isinstance(p, str) else "".join(_read(c, p[0])) for p in kept[parts])
            rest = {key: value for key, value in kept.items() if key != parts}
            return {**rest, body: "".join(texts)}
    return dict(kept)


def conversations(c: Connection, kept: Mapping[str, Any], key: re.Pattern[str]) -> list[str]:
    """The last node of each conversation in the data of a model call as it is stored, whose key,
    which ends the text before it, matches. That of a body kept in its entry is stored for this."""
    found: list[str] = []
    before = ""
    if "parts" not in kept:
        body = kept.get("body")
        parts = cut(body) if isinstance(body, str) and not _surrogates(body) else []
        after = pairwise(parts)
        return [_keep(c, p) for b, p in after if isinstance(p, list) and key.search(str(b))]
    for part in kept["parts"] if isinstance(kept["parts"], list) else []:
        match part:
            case str():
                before = part
            case [str(digest)] if key.search(before):
                found.append(digest)
                before = ""
            case [str(digest)]:
                before = "".join(_read(c, digest))
    return found


def cut(body: str) -> list[Part]:
    """`body`, in parts that joined give it again: if it is a JSON object, the items of its arrays
    by themselves. Pure."""
    parts: list[Part] = []
    done = 0  # what is in `parts`
    try:
        for start, items, end in _arrays(body):
            parts += [body[done:start], items]
            done = end
    except (ValueError, IndexError, RecursionError):  # no JSON, from here on
        pass
    return [part for part in [*parts, body[done:]] if part]


def _arrays(body: str) -> Iterator[tuple[int, list[str], int]]:
    """Of each array at the top: where it begins, its items with all that is between them, and
    where these end. Raises ValueError or IndexError where it is no JSON object."""
    at = _past_space(body, 0)
    if body[at] != "{":
        raise ValueError
    at = _past_space(body, at + 1)
    while body[at] != "}":
        at = _past_space(body, _scan(body, at)[1])
        at = _past_space(body, at + 1)  # the colon
        if body[at] == "[":
            items, end = _items(body, at + 1)
            if items:
                yield at + 1, items, end
            at = _past_space(body, end) + 1
        else:
            at = _scan(body, at)[1]
        at = _past_space(body, at)
        if body[at] == ",":
            at = _past_space(body, at + 1)


def _items(body: str, start: int) -> tuple[list[str], int]:
    items = []
    done, at = start, _past_space(body, start)
    while body[at] != "]":
        end = _scan(body, at)[1]
        items.append(body[done:end])
        done = end
        at = _past_space(body, end)
        if body[at] == ",":
            at = _past_space(body, at + 1)
    return items, done


def _past_space(body: str, at: int) -> int:
    while body[at] in _SPACE:
        at += 1
    return at


def _keep(c: Connection, items: Sequence[str]) -> str:
    """Store what is new of a conversation; its digest."""
    texts = {_digest(text): text for text in items}
    rows: list[dict[str, str]] = []
    for message in map(_digest, items):
        previous = rows[-1]["digest"] if rows else ""
        digest = _digest(f"{previous}\n{message}")
        rows.append({"digest": digest, "previous": previous, "message": message})
    new = _unknown(c, _messages, texts)
    if new:
        c.execute(insert(_messages), [{"digest": d, "text": texts[d]} for d in new])
    unknown = set(_unknown(c, _conversations, [row["digest"] for row in rows]))
    if unknown:
        c.execute(insert(_conversations), [row for row in rows if row["digest"] in unknown])
    return rows[-1]["digest"]


def _unknown(c: Connection, table: Table, digests: Iterable[str]) -> list[str]:
    wanted = list(dict.fromkeys(digests))
    known: set[str] = set()
    for start in range(0, len(wanted), _REQUEST_CHARS_MAX):
        among = table.c.digest.in_(wanted[start : start + _REQUEST_CHARS_MAX])
        known.update(c.scalars(select(table.c.digest).where(among)))
    return [digest for digest in wanted if digest not in known]


def _surrogates(text: str) -> bool:
    """Halves of surrogate pairs: JSON can say them, a column of text cannot hold them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _back() -> Any:
    at = _conversations.c
    last = select(at.previous, at.message, literal(0).label("back")).where(
        at.digest == bindparam("last")
    )
    back = last.cte("back", recursive=True)
    before = select(at.previous, at.message, back.c.back + 1).join(
        back, at.digest == back.c.previous
    )
    back = back.union_all(before)
    texts = select(_messages.c.text).join(back, back.c.message == _messages.c.digest)
    return texts.order_by(back.c.back.desc())


_BACK = _back()


def _read(c: Connection, conversation: str) -> list[str]:
    return list(c.scalars(_BACK, {"last": conversation}))
