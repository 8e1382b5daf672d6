"""Model calls in the log: how their entries are stored (`REQUEST`, `REPLY`), and what is known of
many of them without reading each.

A request is stored by its content (`torpor.contextlog.messages`). Beside the entries there are
narrow rows, written in the same transaction; they hold nothing that the entries do not, and like
these never change:

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

from sqlalchemy import Connection, and_, bindparam, case, func, insert, literal_column, select

from torpor.contextlog import messages, schema
from torpor.contextlog.codecs import Codec, Data, Place, check_object
from torpor.contextlog.prepared import Prepared
from torpor.core.errors import Invalid
from torpor.core.ids import OpId, RunId
from torpor.core.replies import HTTP_ERROR, read_reply

BODY_CHARS_MAX = 16 * 1024 * 1024

_KEY = re.compile(r'"(messages|input)"\s*:\s*\[\s*$')

_spoken, _usage, _tools, _lineage = schema.spoken, schema.usage, schema.tool_uses, schema.lineage
_conversations, _ops = schema.conversations, schema.log_ops


class Used(NamedTuple):
    """By one model, in one run. Tokens are those that the answers report, None where none does;
    `unmeasured` calls have an answer that reports none. `repeats`: how often one was in doubt and
    made again, so that it may have been paid twice."""

    model: str | None
    calls: int
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    unmeasured: int
    repeats: int


def used(c: Connection, run: RunId) -> list[Used]:
    """What the run's models took, by model; of a fork, with what it shares."""
    at = _usage.c
    figures = (at.input_tokens, at.cached_tokens, at.output_tokens)
    sums = [func.sum(each) for each in figures]
    silent = and_(
        at.input_tokens.is_(None),
        at.output_tokens.is_(None),
        func.coalesce(at.status, 0) < HTTP_ERROR,
    )
    unmeasured = func.coalesce(func.sum(case((silent, 1), else_=0)), 0)
    of = and_(
        at.run == _lineage.c.source,
        at.seq > _lineage.c.after_seq,
        at.seq <= _lineage.c.upto_seq,
    )
    again = select(func.count()).where(
        _ops.c.run == run, _ops.c.op == at.op, _ops.c.kind == literal_column("'op.again'")
    )
    repeats = func.coalesce(func.sum(again.correlate(_usage).scalar_subquery()), 0)
    query = select(at.model, func.count(), *sums, unmeasured, repeats).join(_lineage, of)
    query = query.where(_lineage.c.run == run).group_by(at.model).order_by(at.model)
    return [Used(*row) for row in c.execute(query)]


class Begun(NamedTuple):
    """`run` is the one that began it: a fork's origin, if the fork shares it. `broker` is the one
    that its machine found when it came up."""

    run: RunId
    broker: str | None


def begun_with(c: Connection, run: RunId, op: OpId) -> Begun:
    """How a call began, or was begun again, that is in the run's log: the last time."""
    at, up = _ops.alias("began").c, _ops.alias("up").c
    machine = select(up.data["broker"].as_string()).where(
        up.run == at.run,
        up.epoch == at.epoch,
        up.seq < at.seq,
        up.kind == literal_column("'machine.up'"),
    )
    latest = machine.order_by(up.seq.desc()).limit(1).scalar_subquery()
    kinds: list[Any] = [literal_column("'op.begin'"), literal_column("'op.again'")]
    began = (at.run == run, at.op == op, at.kind.in_(kinds))
    query = select(at.source, latest).where(*began).order_by(at.seq.desc()).limit(1)
    source, broker = c.execute(query).one()
    return Begun(RunId(source), broker)


def _check_request(data: object, what: str) -> str | None:
    """What is sent may be longer than an entry: it is stored apart."""
    request = data.get("data") if isinstance(data, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(request, Mapping):
        return check_object(data, what)
    for parts in messages.BODIES:
        if parts in request:
            raise Invalid(f"{what} has {parts!r}, which is no part of a request")
    for key in messages.BODIES.values():
        body = request.get(key)
        if isinstance(body, str) and len(body) > BODY_CHARS_MAX:
            raise Invalid(f"{what} sends {len(body):,} characters; the limit is {BODY_CHARS_MAX:,}")
        if isinstance(body, str):
            request = {name: value for name, value in request.items() if name != key}
    check_object({**data, "data": request}, what)
    return None


def _fold(c: Connection, data: Data) -> Data:
    request = data.get("data")
    return {**data, "data": messages.fold(c, request)} if isinstance(request, Mapping) else data


def _unfold(c: Connection, data: dict[str, Any]) -> dict[str, Any]:
    request = data.get("data")
    return {**data, "data": messages.unfold(c, request)} if isinstance(request, Mapping) else data


def _record_request(c: Connection, place: Place, data: Data) -> None:
    run, request = place.run, data.get("data")
    if data.get("kind") != "model" or not isinstance(request, Mapping):
        return
    for last in messages.conversations(c, request, _KEY):
        # From its end back to what the run's log knows, and where in the conversation that is.
        walked = _BACK.rows(c, in_run=run, last=last)
        new = [node for node, known in walked if known is None]
        start = next((known for _, known in walked if known is not None), 0)
        rows = [
            {"run": run, "seq": place.seq, "n": start + i, "node": node}
            for i, node in enumerate(reversed(new), start=1)
        ]
        if rows:
            _INSERT_SPOKEN.run_many(c, rows)


def _back() -> Any:
    """A conversation's nodes from its last one on, up to the first that the log has sent, and of
    that one its place."""
    at = _conversations.c
    of_log = (
        _lineage.c.run == bindparam("in_run"),
        _spoken.c.run == _lineage.c.source,
        _spoken.c.seq > _lineage.c.after_seq,
        _spoken.c.seq <= _lineage.c.upto_seq,
    )

    def known(node: Any) -> Any:
        found = select(_spoken.c.n).select_from(_lineage).join(_spoken, and_(*of_log[1:]))
        return found.where(of_log[0], _spoken.c.node == node).limit(1).scalar_subquery()

    last = select(at.digest, at.previous, known(at.digest).label("known"))
    back = last.where(at.digest == bindparam("last")).cte("back", recursive=True)
    before = (
        select(at.digest, at.previous, known(at.digest))
        .join(back, at.digest == back.c.previous)
        .where(back.c.known.is_(None))
    )
    back = back.union_all(before)
    return select(back.c.digest, back.c.known)


# Built once: building costs more than running them.
_BACK, _INSERT_SPOKEN = Prepared(_back()), Prepared(insert(_spoken))
_INSERT_USAGE, _INSERT_TOOLS = Prepared(insert(_usage)), Prepared(insert(_tools))


def _record_reply(c: Connection, place: Place, data: Data) -> None:
    reply = read_reply(data.get("value"))
    at = {"run": place.run, "seq": place.seq}
    row = {
        "op": place.op,
        "model": reply.model,
        "status": reply.status,
        "input_tokens": reply.input_tokens,
        "cached_tokens": reply.cached_tokens,
        "output_tokens": reply.output_tokens,
        "finish": reply.finish,
    }
    _INSERT_USAGE.run_many(c, [at | row])
    if reply.tools:
        _INSERT_TOOLS.run_many(
            c,
            [
                at | {"n": n, "id": tool.id, "name": tool.name}
                for n, tool in enumerate(reply.tools, start=1)
            ],
        )


# Of a model's call, and of another that is recorded.
REQUEST = Codec(_check_request, _fold, _unfold, _record_request)
OTHER_REQUEST = Codec(_check_request, _fold, _unfold)
REPLY = Codec(record=_record_reply)
