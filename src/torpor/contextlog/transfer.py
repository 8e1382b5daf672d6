"""A run's rows as JSON objects: out of this database, and into another.

An object has a key for each column of its table and no other. What comes in was written by
others (rule 13): types and ranges are checked here, and that the log has no gap; what the rows
mean is the database's to check (an operation ends once) and the caller's.

A fork leaves whole: what it shares with others goes with it as if it were its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    String,
    Table,
    insert,
    select,
)
from sqlalchemy.exc import IntegrityError

from torpor.contextlog import codecs, lineage, permissions, schema, spent
from torpor.contextlog.codecs import check_object, unfold
from torpor.contextlog.events import read_events
from torpor.contextlog.news import Claimable, Due, changed, report
from torpor.contextlog.queues import ensure_queues
from torpor.contextlog.waits import OPEN, list_waits
from torpor.core import jsonvalues
from torpor.core.environment import check_env
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import RunId, new_id
from torpor.core.limits import SQL_INT_MAX
from torpor.core.permissions import KIND as PERMISSION
from torpor.core.permissions import check_action
from torpor.core.position import Position
from torpor.core.states import RunState

Row = dict[str, Any]

# Column types, the more special ones first, and what a value of them may be.
_VALUES: tuple[tuple[type, tuple[type, ...]], ...] = (
    (Boolean, (bool,)),
    (Integer, (int,)),
    (Double, (int, float)),
    (String, (str,)),
)


# Of a run's row: who carries it is nobody's business elsewhere, and it is not running then.
_OF_HERE = ("worker_id", "lease_until")


@dataclass(frozen=True)
class RunRows:
    """All that the log has of a run but its entries, which are many."""

    run: Row
    waits: list[Row]


def read_run(c: Connection, run: RunId) -> RunRows:
    row = c.execute(select(schema.runs).where(schema.runs.c.id == run)).one()
    waits = list_waits(c, run, open_only=False)
    mine = [_own(wait.to_json(), run, "wait") for wait in waits]
    if any(wait["child"] is not None and wait["state"] == OPEN for wait in mine):
        raise Conflict(
            f"{run} waits for child runs, which an export does not contain",
            hint="Export it after they have ended.",
        )
    # Other runs stay where they are.
    alone = dict.fromkeys(("base", "parent", "after", "successor"))
    ready = row.ready or row.after is not None
    whole = {key: value for key, value in row._mapping.items() if key not in _OF_HERE}
    return RunRows({**whole, **alone, "ready": ready}, mine)


def read_snapshot(c: Connection, snapshot: str, run: RunId) -> Row:
    """A template, or a snapshot that `run` may be restored from."""
    found = select(schema.snapshots).where(schema.snapshots.c.id == snapshot)
    row = dict(c.execute(found).one()._mapping)
    return row if row["run"] is None else _own(row, run, "snap")


def _own(row: Row, run: RunId, prefix: str) -> Row:
    """`row` as one of `run`, under another id if it is its origin's: where the fork goes, that one
    may be, too."""
    return row if row["run"] == run else row | {"id": new_id(prefix), "run": run}


def stream_entries(c: Connection, run: RunId) -> Iterator[Row]:
    """The run's log, not all at once in memory."""
    at = schema.log.c
    columns = [at[column.name] for column in schema.entries.c]
    query = select(*columns).where(at.run == run).order_by(at.part, at.seq)
    for row in c.execute(query.execution_options(yield_per=500)):
        yield {**row._mapping, "data": unfold(c, row.kind, row.op, row.data)}


def write_run(
    c: Connection, rows: RunRows, entries: Sequence[Row], snapshots: Iterable[Row]
) -> None:
    """Add a run that another torpor had, whole. Its agent's version must be here. It is nobody's
    child here, and waits for none.

    Raises Conflict (the run is here already, or its id key is taken), Invalid.
    """
    run = checked(schema.runs, rows.run, "the run")
    _check_run(run, entries)
    if any(wait.get("child") is not None and wait.get("state") == OPEN for wait in rows.waits):
        raise Invalid("the run waits for a child run, which is not here")
    refuse_known(c, run)
    try:
        ensure_queues(c, [run["queue"]], time.time())
        c.execute(insert(schema.runs), [run])
        lineage.start(c, run["id"])
        waits = [_row(run, schema.waits, row) for row in rows.waits]
        logged = [_folded(c, _row(run, schema.entries, row)) for row in entries]
        kept = [_row(run, schema.snapshots, row) for row in snapshots]
        for row in kept:
            Position.of_json(row["detail"])
        for table, several in (
            (schema.waits, waits),
            (schema.entries, logged),
            (schema.snapshots, kept),
        ):
            if several:
                c.execute(insert(table), several)
        for row in logged:
            codecs.record(c, run["id"], row["seq"], row["kind"], row["op"], row["data"])
        used = (spent.amounts_of(row["kind"], row["data"]) for row in logged)
        spent.note_imported(c, RunId(run["id"]), [each for each in used if each])
        for row in waits:
            if row["kind"] == PERMISSION and row["state"] == OPEN:
                action = check_action(row["data"])
                permissions.remember(c, row["id"], RunId(run["id"]), row["op"], action)
    except IntegrityError as error:
        raise Invalid(f"the run's rows do not fit together: {error.orig}") from error
    read_events(c, RunId(run["id"]), time.time())
    changed(c, run["id"])
    report(c, Claimable())
    report(c, Due())


def _folded(c: Connection, entry: Row) -> Row:
    return entry | {"data": codecs.fold(c, entry["kind"], entry["op"], entry["data"])}


def refuse_known(c: Connection, run: Mapping[str, Any]) -> None:
    """Raise Conflict if a run of this id, or one made with its id key, is here."""
    at = schema.runs.c
    if c.scalar(select(at.id).where(at.id == run["id"])) is not None:
        raise Conflict(
            f"run {run['id']} is here already",
            hint="Import it into another data directory, or delete the run here first.",
        )
    created = select(at.id).where(at.id_key == run["id_key"])
    if run["id_key"] is not None and (other := c.scalar(created)) is not None:
        raise Conflict(f"the run's id key {run['id_key']!r} has made run {other} here")


def checked(table: Table, row: Any, what: str) -> Row:
    """`row` if it is an object with just the table's columns, each of its type. Raises Invalid."""
    names = {column.name for column in table.c} - {*_OF_HERE}
    if not isinstance(row, dict) or set(row) != names:
        odd = sorted(names ^ set(row)) if isinstance(row, dict) else [type(row).__name__]
        raise Invalid(
            f"{what} has other columns than this version of torpor writes: {', '.join(odd)}"
        )
    for column in (table.c[name] for name in row):
        value = row[column.name]
        if value is None and column.nullable:
            continue
        if not _fits(column, value):
            raise Invalid(f"{what} is malformed: {column.name} is {str(value)[:80]!r}")
    return row


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(each) in (int, float) for each in value)


# Columns of JSON that what reads them takes to be of one kind. The others may be anything.
_JSON: Mapping[str, Callable[[Any], bool]] = {
    "runs.error": _object,
    "waits.tags": _texts,
    "waits.webhooks": _texts,
    "waits.remind_after": _numbers,
}


def _fits(column: Column[Any], value: Any) -> bool:
    kind = column.type
    if isinstance(kind, JSON):
        fits = _JSON.get(f"{column.table.name}.{column.name}")
        if fits is not None and not fits(value):
            return False
        return jsonvalues.fault(value, jsonvalues.ENTRY_DEPTH_MAX) is None
    allowed = next(types for base, types in _VALUES if isinstance(kind, base))
    if type(value) not in allowed:
        return False
    if isinstance(value, str):
        return not any("\ud800" <= character <= "\udfff" for character in value)
    return bool(abs(value) <= SQL_INT_MAX)  # of NaN, too


def _check_run(run: Row, entries: Sequence[Row]) -> None:
    if run["state"] not in {state.value for state in RunState}:
        raise Invalid(f"there is no state {run['state']!r}")
    if run["state"] == RunState.RUNNING:
        raise Invalid("the run was running when it was exported")
    if run["base"] is not None:
        raise Invalid("the run would begin from a snapshot that is not its own")
    if any(run[key] is not None for key in ("parent", "after", "successor")):
        raise Invalid("the run would depend on another, which is not here")
    if [entry.get("seq") for entry in entries] != list(range(1, run["last_seq"] + 1)):
        raise Invalid(f"the run's log is not its entries 1 to {run['last_seq']}")
    check_object(run["input"], "the run's input")
    check_env(run["env"], "the run's env", kept=True)
    for entry in entries:
        op = entry.get("op")
        codecs.check(str(entry.get("kind")), op if isinstance(op, str) else None, entry.get("data"))


def _row(run: Row, table: Table, given: Any) -> Row:
    """What was given as a row of the run. Raises Invalid."""
    row = checked(table, given, f"a row of {table.name}")
    if row["run"] != run["id"]:
        raise Invalid(f"a row of run {row['run']} is in the export of run {run['id']}")
    return row
