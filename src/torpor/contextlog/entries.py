"""The context log of a run: appending, reading, and the journal that replay works from.

`seq` counts 1, 2, … without gaps, from `runs.last_seq`: appending is one UPDATE, which is also
the fence (rule 4) and, on PostgreSQL, the lock, and one INSERT. Appending operations looks them
up first (rule 2), after the fence. What is read is the whole log, a fork's shared beginning too
(`torpor.contextlog.lineage`): an operation recorded there is recorded.

Data of operation entries:
    op.begin   {kind, name, digest, at?, side?, hint?, …}: see `replay.journal.Recorded`
    op.again   {reason?}: it was in doubt (rule 3) and is done again
    log.superseded   {ops}: a run went on without these, which its agent did not ask for any more
    op.end     {ok: true, value} | {ok: true, blob} (`contextlog.values`) | {ok: false, error}; a
               step's also has printed: {stdout, stderr},
               how many bytes of each the log held then
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    cast,
    exists,
    func,
    insert,
    literal_column,
    select,
    update,
)

from torpor.contextlog import codecs, schema
from torpor.contextlog.codecs import check_object, unfold
from torpor.contextlog.news import changed, count_appended
from torpor.contextlog.prepared import Prepared, json_each, json_of
from torpor.contextlog.secrets import note_use, used_secret
from torpor.contextlog.spent import amounts_of
from torpor.contextlog.spent import note as note_spent
from torpor.core.errors import CallerError, Conflict, Invalid, NotFound, StaleEpoch, TorporError
from torpor.core.ids import Epoch, OpId, RunId, Seq
from torpor.core.paging import PAGE_BYTES_MAX, Page
from torpor.core.states import FINAL

BEGIN, END, AGAIN = "op.begin", "op.end", "op.again"
SUPERSEDED = "log.superseded"
IDENTITY = ("kind", "name", "digest", "at", "side", "hint")
_NO_SPACES = (",", ":")
_OUTCOME = ("ok", "value", "error", "blob")
# In doubt they may happen again. Begun again they do, but for model calls (`worker.calls`).
DONE_AGAIN = ("step", "model", "http", "read", "context", "artifact")
_REPEATED = frozenset(DONE_AGAIN) - {"model", "http"}

_entries, _log, _ops, _runs = schema.entries, schema.log, schema.log_ops, schema.runs
_COLUMNS = [_log.c[column.name] for column in _entries.c]
_IN_ORDER = (_log.c.part, _log.c.seq)


@dataclass(frozen=True)
class NewEntry:
    kind: str
    op: OpId | None
    data: Mapping[str, Any]


@dataclass(frozen=True)
class EntryRow:
    run: RunId
    seq: Seq
    at: float
    epoch: Epoch | None
    kind: str
    op: OpId | None
    data: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def append(
    c: Connection, run: RunId, epoch: Epoch | None, entries: Sequence[NewEntry], now: float
) -> list[Seq]:
    """Append `entries` to the run's log; their positions.

    `epoch` is the writing machine's, None where the host itself writes. An op.begin that is
    there already, with the same digest, is not repeated: its position is given. A recovered machine
    begins again what was in doubt (rule 3); for what is thereby done again, op.again is appended.

    A result (op.end) makes the run ready: if it is suspended, somebody must wake it. Not one that
    sleeps until all that it waits for has ended, if this is not the last.

    Raises NotFound (no such run), StaleEpoch (rule 4; also when the run has ended), Conflict (a
    second result; another digest under the same name), Invalid (rule 13; a result of what never
    began). Nothing is appended then.
    """
    texts = [codecs.check(entry.kind, entry.op, entry.data) for entry in entries]
    ops = {entry.op for entry in entries if entry.kind in (BEGIN, END)}
    if ops:
        try:
            entries, places = _placed(entries, _known(c, run, ops))
        except CallerError:
            advance(c, run, epoch, 0, wakes=False)  # raises StaleEpoch first, if it is lost
            raise
    else:
        places = [None] * len(entries)
    fresh = [
        _ready(c, entry, text)
        for entry, text, place in zip(entries, texts, places, strict=True)
        if place is None
    ]
    wakes = any(entry.kind == END for entry, _ in fresh)
    last = advance(c, run, epoch, len(fresh), wakes=wakes)
    first = last - len(fresh) + 1
    if fresh:
        _INSERT.run_many(
            c,
            [
                {
                    "run": run,
                    "seq": first + i,
                    "at": now,
                    "epoch": epoch,
                    "kind": entry.kind,
                    "op": entry.op,
                    "data": text,
                }
                for i, (entry, text) in enumerate(fresh)
            ],
        )
        for i, (entry, _) in enumerate(fresh):
            codecs.record(c, run, first + i, entry.kind, entry.op, entry.data)
        if amounts := [each for e, _ in fresh if (each := amounts_of(e.kind, e.data))]:
            note_spent(c, run, amounts, now)
        for secret in {name for e, _ in fresh if (name := used_secret(e.kind, e.data))}:
            note_use(c, secret, now)
        changed(c, run)
        count_appended(c, len(fresh))
    unused = iter(range(first, last + 1))
    return [Seq(next(unused)) if place is None else place for place in places]


def begin_logs(c: Connection, several: Sequence[tuple[RunId, NewEntry]], now: float) -> None:
    """The first entries of runs that were just made, and whose `last_seq` says so."""
    rows = [
        {
            "run": run,
            "seq": 1,
            "at": now,
            "epoch": None,
            "kind": first.kind,
            "op": None,
            "data": check_object(first.data, f"the data of {first.kind}"),
        }
        for run, first in several
    ]
    _INSERT.run_many(c, rows)
    for run, _ in several:
        changed(c, run)
    count_appended(c, len(rows))


def _ready(c: Connection, entry: NewEntry, text: str | None) -> tuple[NewEntry, str]:
    """The entry as it is stored, and its data as JSON."""
    if entry.kind == AGAIN:
        return entry, check_object(entry.data, f"the data of {AGAIN} entry {entry.op}")
    if text is not None:
        return entry, text
    stored = replace(entry, data=codecs.fold(c, entry.kind, entry.op, entry.data))
    return stored, json.dumps(stored.data, separators=_NO_SPACES)


def read_entries(
    c: Connection,
    run: RunId,
    after: int = 0,
    kinds: Sequence[str] | None = None,
    limit: int = 1000,
) -> list[EntryRow]:
    """The run's entries with seq > `after`, in order, at most `limit`, of `kinds` if given."""
    rows = c.execute(_reading(run, after, kinds, limit))
    found = [EntryRow(**row._mapping) for row in rows]
    return [replace(row, data=unfold(c, row.kind, row.op, row.data)) for row in found]


def read_page(
    c: Connection, run: RunId, after: int, kinds: Sequence[str] | None, limit: int
) -> Page:
    """The same, as JSON, and no more than fits into a page."""
    page: list[dict[str, Any]] = []
    left = PAGE_BYTES_MAX
    query = _reading(run, after, kinds, limit + 1).add_columns(
        func.length(cast(_log.c.data, Text)).label("size")
    )
    # A row at a time: what does not fit is not even read.
    with c.execute(query.execution_options(yield_per=1)) as rows:
        for *columns, size in rows:
            row = EntryRow(*columns)
            whole = unfold(c, row.kind, row.op, row.data)
            if whole is not row.data:
                size = len(json.dumps(whole, separators=_NO_SPACES))
            if len(page) == limit or (page and size > left):
                return Page(page, more=True)
            page.append(replace(row, data=whole).to_json())
            left -= size
    return Page(page, more=False)


def _reading(run: RunId, after: int, kinds: Sequence[str] | None, limit: int) -> Select[Any]:
    query = select(*_COLUMNS).where(_log.c.run == run, _log.c.seq > after)
    if kinds is not None:
        query = query.where(_log.c.kind.in_(kinds))
    return query.order_by(*_IN_ORDER).limit(limit)


def journal(c: Connection, run: RunId, after_seq: int) -> list[dict[str, Any]]:
    """The operations that ended after `after_seq`, and those that began after it and have not
    ended, in the order in which they began, as a machine replays them (`replay.journal.Recorded`).

    Each is {op, kind, name, digest, at?, side?, hint?}. One that has ended also has {seq, ok,
    value | error}, a step's `printed`; one that has not, `again`: how often it was begun again. For
    a doubt that has ended, that of the step.
    """
    rows = _ENDED.rows(c, in_run=run, after=after_seq)
    begins, ends = json_each([row[2] for row in rows]), json_each([row[4] for row in rows])
    found = [
        (began, _identity(op, begin) | {"seq": seq} | _known_of(end, *_OUTCOME, "printed"))
        for (op, began, _, seq, _), begin, end in zip(rows, begins, ends, strict=True)
    ]
    found += [
        (began, _identity(op, begin) | {"again": again})
        for op, began, begin, again, *_ in _IN_DOUBT.rows(c, in_run=run, after=after_seq)
    ]
    given_up = superseded(c, run)
    ordered = sorted(found, key=itemgetter(0))
    records = [record for _, record in ordered if record["op"] not in given_up]
    for record in records:
        if record["kind"] == "doubt" and "ok" in record:
            record["again"] = c.scalar(_REPEATS, {"in_run": run, "of": record["name"]})
    return records


def in_doubt(c: Connection, run: RunId) -> list[dict[str, Any]]:
    """All of the run that has begun, not ended, and would be done again: as in `journal`, with
    `seq` and `began_at` (unix seconds), where and when it began, and the `epoch` that was last
    at it."""
    given_up = superseded(c, run)
    return [
        {
            **_identity(op, begin),
            "seq": began,
            "began_at": at,
            "again": again,
            "epoch": latest or epoch,
        }
        for op, began, begin, again, at, epoch, latest in _IN_DOUBT.rows(c, in_run=run, after=0)
        if json_of(begin)["kind"] in DONE_AGAIN and op not in given_up
    ]


def superseded(c: Connection, run: RunId) -> frozenset[str]:
    """The operations that the agent has gone on without (`torpor.worker.verdicts`)."""
    given_up = and_(_ops.c.run == run, _ops.c.kind == _kind(SUPERSEDED))
    return frozenset(
        op for data in c.scalars(select(_ops.c.data).where(given_up)) for op in data["ops"]
    )


def began_at(c: Connection, run: RunId, op: OpId) -> Seq | None:
    """Where the operation begins, None if it has not begun."""
    began = and_(_ops.c.run == run, _ops.c.op == op, _ops.c.kind == _kind(BEGIN))
    return c.scalars(select(_ops.c.seq).where(began)).first()


def _identity(op: str, begin: Any) -> dict[str, Any]:
    return {"op": op, **_known_of(json_of(begin), *IDENTITY)}


def _known_of(data: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: data[key] for key in keys if key in data}


def journal_holds(c: Connection, run: RunId, after_seq: int) -> bool:
    """Whether any result was recorded after `after_seq`."""
    ended = and_(_log.c.run == run, _log.c.seq > after_seq, _log.c.kind == END)
    return c.scalar(select(exists().where(ended))) is True


def read_op(c: Connection, run: RunId, op: OpId) -> dict[str, Any]:
    """The data of the operation's op.begin entry. Raises NotFound."""
    began = and_(_ops.c.run == run, _ops.c.op == op, _ops.c.kind == _kind(BEGIN))
    data: dict[str, Any] | None = c.scalars(select(_ops.c.data).where(began)).first()
    if data is None:
        raise NotFound(f"no operation {op} has begun in run {run}")
    return unfold(c, BEGIN, op, data)


class Ended(NamedTuple):
    """Where in the log an operation's op.end entry stands, and its data."""

    seq: Seq
    data: dict[str, Any]


def read_result(c: Connection, run: RunId, op: OpId) -> Ended | None:
    """How an operation ended; None while it has not."""
    ended = and_(_ops.c.run == run, _ops.c.op == op, _ops.c.kind == _kind(END))
    row = c.execute(select(_ops.c.seq, _ops.c.data).where(ended)).first()
    return None if row is None else Ended(*row)


def read_end(c: Connection, run: RunId, op: OpId) -> dict[str, Any] | None:
    """The outcome of an operation: {ok, value | error}, None while it has none."""
    ended = read_result(c, run, op)
    return ended and _known_of(ended.data, *_OUTCOME)


class Place(NamedTuple):
    """Where a machine stands in its run's log: `seq` is the last entry that it is known to have
    seen all before; `seen_upto` is how much log there was, all that it did among that."""

    seq: Seq
    seen_upto: Seq


def seen_before(c: Connection, run: RunId, unseen: Collection[str]) -> Place:
    """The place of a machine that has seen all of the log so far but the results of `unseen`:
    the last entry before the first of these, or the last there is."""
    ended = (_ops.c.run == run, _ops.c.kind == _kind(END), _ops.c.op.in_(unseen))
    first = c.scalar(select(func.min(_ops.c.seq)).where(*ended)) if unseen else None
    last = c.scalar(select(_runs.c.last_seq).where(_runs.c.id == run)) or 0
    return Place(Seq(last if first is None else first - 1), Seq(last))


def count_entries(c: Connection, run: RunId, kind: str) -> int:
    """How many entries of `kind` the run has."""
    counted = select(func.count()).where(_log.c.run == run, _log.c.kind == kind)
    return c.scalar(counted) or 0


@dataclass(frozen=True)
class _Known:
    """What the log holds of an operation: where it began, with what, and where it ended."""

    begin: Seq
    data: Any  # of its op.begin
    end: Seq | None

    @property
    def digest(self) -> str:
        digest: str = json_of(self.data)["digest"]
        return digest


def _kind(kind: str) -> Any:
    """A word of ours, in a statement."""
    # In the statement's text rather than a parameter: only so does SQLite see that the partial
    # index on this kind serves.
    return literal_column(f"'{kind}'")


_REPEATS = select(func.count()).where(
    _ops.c.run == bindparam("in_run"),
    _ops.c.op == bindparam("of"),
    _ops.c.kind == _kind(AGAIN),
)


def _statements() -> tuple[Select[Any], Select[Any], Select[Any]]:
    in_run: BindParameter[str] = bindparam("in_run")
    # In the log's order, and looked up.
    begin_in, end_in = _log.alias("begins"), _log.alias("ends")
    begin, end, again = _ops.alias("begun"), _ops.alias("ended"), _ops.alias("again")

    def of(one: Any, other: Any, kind: str) -> ColumnElement[bool]:
        return and_(one.c.run == other.c.run, one.c.op == other.c.op, one.c.kind == _kind(kind))

    has_ended = (
        select(begin.c.op, begin.c.seq, begin.c.data, end_in.c.seq, end_in.c.data)
        .join_from(end_in, begin, of(begin, end_in, BEGIN))
        .where(end_in.c.run == in_run, end_in.c.seq > bindparam("after"))
        .where(end_in.c.kind == END)
    )
    repeats = of(again, begin_in, AGAIN)
    in_doubt = (
        select(
            begin_in.c.op,
            begin_in.c.seq,
            begin_in.c.data,
            select(func.count()).where(repeats).scalar_subquery(),
            begin_in.c.at,
            begin_in.c.epoch,
            select(func.max(again.c.epoch)).where(repeats).scalar_subquery(),
        )
        .where(begin_in.c.run == in_run, begin_in.c.seq > bindparam("after"))
        .where(begin_in.c.kind == BEGIN, ~exists().where(of(end, begin_in, END)))
        .order_by(begin_in.c.part, begin_in.c.seq)
    )
    # A scalar, since SQLite would make a copy of the whole view to join it from the outside.
    ended = select(end.c.seq).where(of(end, begin, END)).scalar_subquery()
    known = select(begin.c.seq, begin.c.data, ended).where(
        begin.c.run == in_run, begin.c.op == bindparam("in_op"), begin.c.kind == _kind(BEGIN)
    )
    return has_ended, in_doubt, known


def _advance_statement(*, fenced: bool) -> Update:
    statement = update(_runs).where(_runs.c.id == bindparam("in_run"))
    if fenced:
        statement = statement.where(
            _runs.c.epoch == bindparam("by_epoch"),
            *(_runs.c.state != _kind(state.value) for state in FINAL),
        )
    statement = statement.values(last_seq=_runs.c.last_seq + bindparam("more"))
    return statement.returning(_runs.c.last_seq, _runs.c.ready)


def _wake_statement() -> Update:
    waits = schema.waits.c
    more = exists().where(waits.run == _runs.c.id, waits.state == _kind("open"))
    sleeps_on = and_(_runs.c.patient, more)
    return update(_runs).where(_runs.c.id == bindparam("in_run"), ~sleeps_on).values(ready=True)


# Built once: building costs more than running them.
_ENDED, _IN_DOUBT, _KNOWN = map(Prepared, _statements())
_INSERT = Prepared(insert(_entries))
_ADVANCE = {fenced: Prepared(_advance_statement(fenced=fenced)) for fenced in (False, True)}
_WAKE = Prepared(_wake_statement())


def advance(c: Connection, run: RunId, epoch: Epoch | None, more: int, *, wakes: bool) -> int:
    """Move the run's last_seq on by `more`; where it is then. The fence (rule 4)."""
    values = {"in_run": run, "by_epoch": epoch, "more": more}
    fenced = epoch is not None
    if not fenced:
        del values["by_epoch"]
    rows = _ADVANCE[fenced].rows(c, **values)
    if not rows:
        raise refusal(c, run, epoch)
    last, ready = rows[0]
    # Apart: `ready` is in an index, which is written anew even where it is set to what it was.
    if wakes and not ready:
        _WAKE.run(c, in_run=run)
    return int(last)


def refusal(c: Connection, run: RunId, epoch: Epoch | None) -> TorporError:
    """Why a write by `epoch` to `run` is refused."""
    row = c.execute(select(_runs.c.epoch, _runs.c.state).where(_runs.c.id == run)).first()
    if row is None:
        return NotFound(f"there is no run {run!r}")
    if row.epoch != epoch:
        return StaleEpoch(
            f"epoch {epoch} tried to write to run {run}, whose epoch is {row.epoch}",
            hint="The machine that lost its run is ended.",
        )
    return StaleEpoch(
        f"epoch {epoch} tried to write to run {run}, which is {row.state}",
        hint="A machine whose run has ended is ended.",
    )


def _known(c: Connection, run: RunId, ops: set[OpId | None]) -> dict[OpId | None, _Known]:
    found = {op: _KNOWN.rows(c, in_run=run, in_op=op) for op in ops}
    return {op: _Known(*rows[0]) for op, rows in found.items() if rows}


def _placed(
    entries: Sequence[NewEntry], known: Mapping[OpId | None, _Known]
) -> tuple[list[NewEntry], list[Seq | None]]:
    """What is to be appended, and of each its position if it is in the log. Raises for rule 2."""
    begun = set(known)
    ended = {op for op, k in known.items() if k.end is not None}
    wanted: list[NewEntry] = []
    places: list[Seq | None] = []
    for entry in entries:
        place = None
        if entry.kind in (BEGIN, END) and entry.op is None:
            raise Invalid(f"an {entry.kind} entry names no operation")
        if entry.kind == BEGIN:
            place = _begin(entry, begun, known)
            if place is not None and entry.op not in ended and entry.data["kind"] in _REPEATED:
                entry, place = NewEntry(AGAIN, entry.op, {}), None
        elif entry.kind == END:
            if entry.op not in begun:
                raise Invalid(f"operation {entry.op} ended without having begun")
            if entry.op in ended:
                raise Conflict(
                    f"operation {entry.op} has a result already (rule 2)",
                    hint="The recorded result stands.",
                )
            ended.add(entry.op)
        wanted.append(entry)
        places.append(place)
    return wanted, places


def _begin(
    entry: NewEntry, begun: set[OpId | None], known: Mapping[OpId | None, _Known]
) -> Seq | None:
    missing = [key for key in ("kind", "name", "digest") if key not in entry.data]
    if missing:
        raise Invalid(f"the beginning of {entry.op} lacks {', '.join(missing)}")
    if entry.op not in begun:
        begun.add(entry.op)
        return None
    if entry.op not in known:
        raise Invalid(f"operation {entry.op} begins twice in one write")
    before, digest = known[entry.op].digest, entry.data["digest"]
    if before != digest:
        raise Conflict(
            f"operation {entry.op} began before with other arguments "
            f"(digest {before}, now {digest})",
            hint="The agent did something other than what the log says.",
        )
    return known[entry.op].begin
