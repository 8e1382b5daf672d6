"""Model calls as narrow rows, so that questions about many need not read what was said in each.

Written with the entries that they are taken from, in the same transaction; they hold nothing that
these do not, and like these never change:

    said       at op.begin: each message that the run's log had not yet sent in this place of a
               conversation; a conversation that grows costs a row a new message
    usage      at op.end: who answered, with what status, and the tokens it took
    tool_uses  at op.end: the tools that the answer asks for

What belongs to a run is by the lineage of its log, as entries do (`torpor.contextlog.lineage`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, select

from torpor.contextlog import messages, schema
from torpor.model.ids import RunId
from torpor.model.replies import read_reply

_KEY = re.compile(r'"(messages|input)"\s*:\s*\[\s*$')

_said, _usage, _tools, _lineage = schema.said, schema.usage, schema.tool_uses, schema.lineage


def record(
    c: Connection, run: RunId, seq: int, kind: str, op: str | None, data: Mapping[str, Any]
) -> None:
    """Take what is to be known of an entry just written, if it is a model call's. `data` is as it
    is stored."""
    if kind == "op.begin" and data.get("kind") == "model":
        _asked(c, run, seq, data.get("data"))
    elif kind == "op.end" and op is not None and op.startswith("model:"):
        _answered(c, run, seq, op, data)


class Used(NamedTuple):
    """By one model, in one run. Tokens are those that answers told."""

    model: str | None
    calls: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int


def used(c: Connection, run: RunId) -> list[Used]:
    """What the run's models took, by model; of a fork, with what it shares."""
    at = _usage.c
    figures = (at.input_tokens, at.cached_tokens, at.output_tokens)
    sums = [func.coalesce(func.sum(each), 0) for each in figures]
    of = and_(
        at.run == _lineage.c.source,
        at.seq > _lineage.c.after_seq,
        at.seq <= _lineage.c.upto_seq,
    )
    query = select(at.model, func.count(), *sums).join(_lineage, of)
    query = query.where(_lineage.c.run == run).group_by(at.model).order_by(at.model)
    return [Used(*row) for row in c.execute(query)]


def _asked(c: Connection, run: RunId, seq: int, asked: Any) -> None:
    if not isinstance(asked, Mapping):
        return
    for last in messages.conversations(c, asked, _KEY):
        new, at = _new(c, run, last)
        rows = [
            {"run": run, "seq": seq, "n": at + i, "node": node}
            for i, node in enumerate(reversed(new), start=1)
        ]
        if rows:
            c.execute(insert(_said), rows)


def _new(c: Connection, run: RunId, last: str) -> tuple[list[str], int]:
    """The nodes of a conversation, from its end back to where the run's log knows it, and how
    many messages that beginning has."""
    known = (
        select(_said.c.n)
        .join(
            _lineage,
            and_(
                _said.c.run == _lineage.c.source,
                _said.c.seq > _lineage.c.after_seq,
                _said.c.seq <= _lineage.c.upto_seq,
            ),
        )
        .where(_lineage.c.run == run)
    )
    new: list[str] = []
    for node in messages.backwards(c, last):
        at: int | None = c.scalar(known.where(_said.c.node == node))
        if at is not None:
            return new, at
        new.append(node)
    return new, 0


def _answered(c: Connection, run: RunId, seq: int, op: str, data: Mapping[str, Any]) -> None:
    reply = read_reply(data.get("value"))
    row = {
        "run": run,
        "seq": seq,
        "op": op,
        "model": reply.model,
        "status": reply.status,
        "input_tokens": reply.input_tokens,
        "cached_tokens": reply.cached_tokens,
        "output_tokens": reply.output_tokens,
        "finish": reply.finish,
    }
    c.execute(insert(_usage), [row])
    if reply.tools:
        c.execute(
            insert(_tools),
            [
                {"run": run, "seq": seq, "n": n, "id": tool.id, "name": tool.name}
                for n, tool in enumerate(reply.tools, start=1)
            ],
        )
