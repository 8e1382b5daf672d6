"""A run's conversation, counted: what its models were sent, against all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, cast, func, select

from torpor.contextlog import schema
from torpor.contextlog.entries import BEGIN
from torpor.core.ids import RunId

_ops = schema.log_ops
_PREFIX = "context:"  # of all operations of a conversation, and only of them


@dataclass(frozen=True)
class Spoken:
    """`turns`: how often a part of it was asked for, to be sent; that took `tokens_sent`,
    where all of it would have taken `tokens_whole`. All as the agent counts them."""

    messages: int
    tokens: int
    turns: int
    tokens_sent: int
    tokens_whole: int
    compactions: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def spoken(c: Connection, run: RunId) -> Spoken | None:
    """None where there is no conversation."""
    data = _ops.c.data["data"]
    begun = (
        _ops.c.run == run,
        _ops.c.kind == BEGIN,
        schema.begins_with(_ops.c.op, _PREFIX),
    )

    def named(name: str) -> ColumnElement[bool]:
        return _ops.c.op.startswith(f"{_PREFIX}{name}#", autoescape=True)

    def total(key: str) -> ColumnElement[int]:
        return func.coalesce(func.sum(data[key].as_integer()), 0)

    def many(name: str) -> ColumnElement[int]:
        return func.coalesce(func.sum(cast(named(name), Integer)), 0)

    counts = (many("append"), many("window"), many("compact"))
    query = select(*counts, total("sent"), total("whole")).where(*begun)
    messages, turns, compactions, sent, whole = c.execute(query).one()
    if not messages:
        return None
    tokens = c.scalar(select(total("tokens")).where(*begun, named("append"))) or 0
    return Spoken(messages, tokens, turns, sent, whole, compactions)
