"""Ended runs, deleted: all of them, or nothing.

A run may go when it has ended and no other run's log has entries of it (`sharing`: a fork shares
the beginning of its origin's). Everything that is of the run alone goes with it in one transaction:

    the log, waits and notices, events, rows of model calls, snapshots and results (their files
    are the caller's: `Gone` names them), its key, tokens for it, its idempotency key
    the files that it was given, but for those that another run has, too
    what it sent to models, but for what another run has sent too

What stays are others' own words of it: a parent's result of a child, a fork's note of its origin.
They are their log (rule 1). A schedule forgets that it was its last run.

What was sent to models is shared by content, and nobody counts who shares it: that would cost every
call. `mark` looks through all conversations, as a reader; `delete_run` looks once more only at what
was appended since.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from sqlalchemy import (
    Connection,
    Select,
    Table,
    and_,
    delete,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)

from torpor.contextlog import files, schema
from torpor.contextlog.messages import BODIES, RECORDED
from torpor.contextlog.news import changed
from torpor.contextlog.runs import RunRow, get_run
from torpor.core.errors import Conflict
from torpor.core.ids import RunId
from torpor.core.states import FINAL, UNFINISHED

# What is of one run, in the order in which it may go.
_OF_RUN: tuple[tuple[Table, str], ...] = (
    (schema.notices, "run"),
    (schema.permissions, "run"),
    (schema.waits, "run"),
    (schema.events, "run"),
    (schema.spoken, "run"),
    (schema.usage, "run"),
    (schema.spent, "whose"),  # of what is no run's, the id is none's
    (schema.tool_uses, "run"),
    (schema.snapshots, "run"),
    (schema.large_values, "run"),
    (schema.run_keys, "run"),
    (schema.api_keys, "run"),
    (schema.lineage, "run"),
    (schema.entries, "run"),
    (schema.runs, "id"),
)
_MANY = 500  # in one statement
_runs, _lineage = schema.runs, schema.lineage


@dataclass(frozen=True)
class Gone:
    """What the files of a run that was deleted are called; of results, and of the files that it
    was given and no other run has, the sealed ones, which are nobody else's."""

    run: RunId
    manifests: frozenset[str]
    values: frozenset[str]


@dataclass
class Unused:
    """Of what a run has sent to models, what nobody else had sent when the log had so much."""

    nodes: dict[str, tuple[str, str]] = field(default_factory=dict)  # → previous, message
    messages: set[str] = field(default_factory=set)
    entries: int = 0
    conversations: int = 0

    def use(self, node: str) -> None:
        """The conversation is another's too: it, and all that it goes on from."""
        while node in self.nodes:
            node, message = self.nodes.pop(node)
            self.messages.discard(message)

    def spare(self, *heads: Iterable[str], nodes: Iterable[Sequence[str]]) -> None:
        """Others have sent conversations that end with `heads`; `nodes` are conversations."""
        for head in chain(*heads):
            self.use(head)
        for digest, previous, message in nodes:
            if digest not in self.nodes:
                self.use(previous)
                self.messages.discard(message)


def sharing(c: Connection, run: RunId) -> list[RunId]:
    """The other runs whose logs have entries of this one."""
    shared = and_(_lineage.c.source == run, _lineage.c.run != run)
    return [RunId(each) for each in c.scalars(select(_lineage.c.run).where(shared).distinct())]


def check(c: Connection, ref: str) -> RunRow:
    """The run, if it may be deleted. Raises NotFound, Conflict."""
    run = get_run(c, ref)
    if run.state not in FINAL:
        raise Conflict(
            f"{run.id} has not ended: it is {run.state.value}",
            hint=f"Cancel it first: torpor cancel {run.id}",
        )
    if others := sorted(sharing(c, run.id)):
        raise Conflict(
            f"the log of {run.id} is shared with {', '.join(others)}: forks and "
            "retries share their beginning",
            hint=f"Delete these first: torpor delete {' '.join([*others, run.id])}",
        )
    return run


def mark(c: Connection, run: RunId) -> Unused:
    """What of its conversations may go with it, as far as a reader can tell."""
    unused = Unused(
        entries=_last(c, schema.entries),
        conversations=_last(c, schema.conversations),
    )
    at = schema.conversations.c
    ahead = {*_heads(c, schema.entries.c.run == run), *_nodes_sent(c, schema.spoken.c.run == run)}
    while ahead:
        known = select(at.digest, at.previous, at.message).where(at.digest.in_(_some(ahead)))
        for digest, previous, message in c.execute(known):
            unused.nodes[digest] = (previous, message)
            unused.messages.add(message)
            if previous and previous not in unused.nodes:
                ahead.add(previous)
    if unused.nodes:
        heads = _heads(c, schema.entries.c.run != run)
        unused.spare(heads, _nodes_sent(c, schema.spoken.c.run != run), nodes=c.execute(_nodes()))
    return unused


def delete_run(c: Connection, ref: str, unused: Unused) -> Gone:
    """Delete the run, of which `unused` was marked. Raises NotFound, Conflict."""
    run = check(c, ref).id
    snapshots, values = schema.snapshots.c, schema.large_values.c
    given = [row.name for row in files.forget_run(c, run) if row.wrapped is not None]
    results = c.scalars(select(values.name).where(values.run == run, values.sealed))
    gone = Gone(
        run,
        frozenset(c.scalars(select(snapshots.manifest).where(snapshots.run == run))),
        frozenset({*results, *given}),
    )
    c.execute(insert(schema.deleting), [{"run": run}])
    for table, column in _OF_RUN:
        c.execute(delete(table).where(table.c[column] == run))
    c.execute(delete(schema.deleting))
    forget = update(schema.schedules).where(schema.schedules.c.last_run == run)
    c.execute(forget.values(last_run=None))
    _sweep(c, unused)
    changed(c, run)
    return gone


def deletable(c: Connection, now: float, limit: int, ended_before: float | None) -> list[RunId]:
    """The ended runs that were the first to end, before then if given, and that retention may
    delete: nobody shares their logs, no schedule refers to them, no unfinished run has spawned
    them, no snapshot of theirs is pinned, no idempotency key with an end of theirs is in force."""
    at = _runs.c
    parents = _runs.alias("parents")
    others = _lineage.alias("others")
    spared = or_(
        exists().where(others.c.source == at.id, others.c.run != at.id),
        exists().where(schema.schedules.c.last_run == at.id),
        exists().where(parents.c.id == at.parent, parents.c.state.in_(UNFINISHED)),
        exists().where(schema.snapshots.c.run == at.id, schema.snapshots.c.pinned),
        func.coalesce(at.id_key_until, 0.0) > now,
    )
    query = select(at.id).where(at.ended_at.is_not(None), at.state.in_(FINAL), ~spared)
    if ended_before is not None:
        query = query.where(at.ended_at < ended_before)
    return [RunId(run) for run in c.scalars(query.order_by(at.ended_at).limit(limit))]


def ended_before(c: Connection, among: Collection[RunId], when: float) -> list[RunId]:
    """Those of `among` that ended before then: what they left beside the log may go."""
    at = schema.runs.c
    return list(c.scalars(select(at.id).where(at.id.in_(among), at.ended_at < when)))


def _sweep(c: Connection, unused: Unused) -> None:
    if not unused.nodes:
        return
    # A message that came since it was marked may be one that was there before.
    entries, sent = schema.entries.c, schema.spoken.c
    new = _rowid(schema.entries) > unused.entries
    there = select(sent.node).join_from(
        schema.entries, schema.spoken, and_(sent.run == entries.run, sent.seq == entries.seq)
    )
    grown = c.execute(_nodes().where(_rowid(schema.conversations) > unused.conversations))
    unused.spare(_heads(c, new), c.scalars(there.where(new)), nodes=grown)
    _delete(c, schema.conversations, unused.nodes)
    _delete(c, schema.messages, unused.messages)


def _heads(c: Connection, of: Any) -> Iterator[str]:
    """The conversations that recorded requests have sent."""
    at = schema.entries.c
    recorded = or_(*(schema.begins_with(at.op, f"{kind}:") for kind in RECORDED))
    calls = and_(at.kind == "op.begin", recorded)
    for data in c.scalars(select(at.data).where(calls, of)):
        request = data.get("data")
        if isinstance(request, dict):
            parts = (part for key in BODIES for part in request.get(key, ()))
            yield from (part[0] for part in parts if isinstance(part, list))


def _last(c: Connection, table: Table) -> int:
    return c.scalar(select(func.max(_rowid(table))).select_from(table)) or 0


def _nodes() -> Select[Any]:
    at = schema.conversations.c
    return select(at.digest, at.previous, at.message)


def _rowid(table: Table) -> Any:
    """SQLite's own number of a row, which grows."""
    return literal_column(f"{table.name}.rowid")


def _nodes_sent(c: Connection, of: Any) -> Iterable[str]:
    return c.scalars(select(schema.spoken.c.node).where(of))


def _some(ahead: set[str]) -> list[str]:
    return [ahead.pop() for _ in range(min(_MANY, len(ahead)))]


def _pieces(names: Collection[str]) -> Iterator[list[str]]:
    listed = list(names)
    return (listed[at : at + _MANY] for at in range(0, len(listed), _MANY))


def _delete(c: Connection, table: Table, digests: Collection[str]) -> None:
    for some in _pieces(digests):
        c.execute(delete(table).where(table.c.digest.in_(some)))
