"""Entries of what went out, and of what was refused: each is one of a run's, and of no operation.

    egress.request  {id, method?, url, rule, secret?, address?}: let out. Durable before its
                    answer's head is the agent's
    egress.end      {id, status?, sent, received, ms, problem?, cost?}: how it ended, the bytes of
                    the bodies both ways, and the dollars that it counts
    egress.refused  {method?, url | name, port?, code, reason, rule?, times?, op?}: not let out.
                    What is refused again and again is counted, not repeated: `times` is how often
                    by then. `op` is the operation that it was begun as, if it was

A recorded exchange has an operation instead. Its op.end has `egress`: {rule, secret?, address?, ms,
sent, received, used?}, the last as `contextlog.spent` says, or {rule, code, reason} if it was
refused; while its answer comes, op.part entries have its text, {text}, for people: replay does not
look at them.

`id` tells one exchange of a run from another. What is too long is cut: `…` stands at its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, func, select

from torpor.contextlog import schema
from torpor.contextlog.codecs import Codec, check_object
from torpor.contextlog.entries import NewEntry
from torpor.core.errors import Invalid
from torpor.core.ids import OpId, RunId

REQUEST, ENDED, REFUSED, PART = "egress.request", "egress.end", "egress.refused", "op.part"

_log = schema.log

URL_CHARS_MAX = 2048
REASON_CHARS_MAX = 1000
NAME_CHARS_MAX = 253
OP_CHARS_MAX = 2048
PART_CHARS_MAX = 64 * 1024

_COUNT = (int, 2**62)
_WORD = (str, 64)
_NAMED = (str, NAME_CHARS_MAX)
_REASON = (str, REASON_CHARS_MAX)
_SHAPES: Mapping[str, Mapping[str, tuple[type, int]]] = {
    REQUEST: {
        "id": _WORD,
        "method?": _WORD,
        "url": (str, URL_CHARS_MAX),
        "rule": _NAMED,
        "secret?": _NAMED,
        "address?": _WORD,
    },
    ENDED: {
        "id": _WORD,
        "status?": _COUNT,
        "sent": _COUNT,
        "received": _COUNT,
        "ms": _COUNT,
        "problem?": _REASON,
        "cost?": (float, 2**62),
    },
    REFUSED: {
        "method?": _WORD,
        "url?": (str, URL_CHARS_MAX),
        "name?": _NAMED,
        "port?": _COUNT,
        "code": _WORD,
        "reason": _REASON,
        "rule?": _NAMED,
        "times?": _COUNT,
        "op?": (str, OP_CHARS_MAX),
    },
    PART: {"text": (str, PART_CHARS_MAX)},
}
_FIELDS = {
    kind: {name.removesuffix("?"): limits for name, limits in shape.items()}
    for kind, shape in _SHAPES.items()
}


def entry(kind: str, **data: Any) -> NewEntry:
    """Of REQUEST, ENDED or REFUSED, with what there is of `data`: what is None is left out, text is
    made what fits."""
    fields = _FIELDS[kind]
    known = {key: _cut(each, fields[key]) for key, each in data.items() if each is not None}
    return NewEntry(kind, None, known)


def reason(text: str) -> str:
    """As an entry has it."""
    return str(_cut(text, _REASON))


def part(op: OpId, text: str) -> NewEntry:
    return NewEntry(PART, op, {"text": _cut(text, _FIELDS[PART]["text"])})


def part_chars(c: Connection, run: RunId, op: OpId) -> int:
    """How much text of an operation's answer the log has."""
    text = _log.c.data["text"].as_string()
    query = select(func.sum(func.length(text)))
    found = c.scalar(query.where(_log.c.run == run, _log.c.op == op, _log.c.kind == PART))
    return int(found or 0)


def url(fields: Mapping[str, Any]) -> str:
    """What an `open` asks for, as people write it; the port where it is not the scheme's."""
    scheme, host, port = fields["scheme"], fields["host"], fields["port"]
    usual = {"https": 443, "http": 80}.get(scheme) == port
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}{'' if usual else f':{port}'}{fields.get('target', '')}"


def _cut(value: Any, limits: tuple[type, int]) -> Any:
    _, most = limits
    if not isinstance(value, str):
        return value
    # Neither can be in a text of the log, and anybody may have written this.
    value = value.replace("\0", "\ufffd").encode(errors="replace").decode()
    return value if len(value) <= most else f"{value[: most - 1]}…"


def _check(kind: str) -> Codec:
    known = _FIELDS[kind]
    needed = {name for name in _SHAPES[kind] if not name.endswith("?")}

    def check(data: object, what: str) -> str:
        text = check_object(data, what)
        assert isinstance(data, Mapping)
        if missing := needed - data.keys():
            raise Invalid(f"{what} lacks {', '.join(sorted(missing))}")
        for key, value in data.items():
            of, most = known.get(key, (None, 0))
            if of is None:
                raise Invalid(f"{what} has {key!r}, which is no part of it")
            size = len(value) if isinstance(value, str) else value
            if type(value) is not of or not 0 <= size <= most:
                raise Invalid(f"{what}: {key} must be {_WORDS[of]} of at most {most:,}")
        return text

    return Codec(check=check)


_WORDS = {str: "text", int: "a count", float: "a number"}
CODECS: Mapping[str, Codec] = {kind: _check(kind) for kind in _FIELDS}
