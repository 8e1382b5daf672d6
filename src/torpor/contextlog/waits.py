"""Waits: what a run waits for from outside, answered, timed out or cancelled exactly once.

    open ──► completed | timeout | cancelled

A wait is an operation: making it appends its op.begin, ending it appends `wait.<state>` and the
op.end whose value tells the agent. Whoever's UPDATE finds the wait open ends it (rule 11); a
person who comes too late is told so (Conflict), a timer that comes too late changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, insert, or_, select, tuple_, update

from torpor.contextlog import schema
from torpor.contextlog.entries import BEGIN, END, NewEntry, append, check_object, read_op
from torpor.contextlog.refs import resolve
from torpor.model.errors import Conflict, Invalid, NotFound
from torpor.model.ids import Epoch, OpId, RunId, WaitId, new_id

OPEN, COMPLETED, TIMEOUT, CANCELLED = "open", "completed", "timeout", "cancelled"
_ENDS = (COMPLETED, TIMEOUT, CANCELLED)
# What falling due means: the time that was slept for has come, the answer has not.
_DUE = {"wait": TIMEOUT, "sleep": COMPLETED, "doubt": TIMEOUT}
WAITS = tuple(_DUE)  # the kinds of operations that are waits
_ANSWER = ("data", "approved", "note")

_waits = schema.waits


@dataclass(frozen=True)
class WaitRow:
    id: WaitId
    run: RunId
    op: OpId
    kind: str
    prompt: str
    data: Any
    schema: dict[str, Any] | None
    approve: bool
    created_at: float
    due_at: float | None
    state: str
    value: dict[str, Any] | None
    completed_at: float | None
    by: str | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class _Ended(NamedTuple):
    run: RunId
    op: OpId


def create_wait(
    c: Connection,
    run: RunId,
    epoch: Epoch,
    *,
    op: OpId,
    name: str,
    digest: str,
    kind: str,
    now: float,
    at: str | None = None,
    side: bool | None = None,
    prompt: str = "",
    data: Any = None,
    schema: Mapping[str, Any] | None = None,
    approve: bool = False,
    due_at: float | None = None,
) -> WaitRow:
    """Begin operation `op` as a wait of `kind` "wait", "sleep" or "doubt" (about a step); the one
    there is if it began.

    `due_at` is when it ends by itself; `at` and `side` are as in `entries`. Raises as
    `entries.append` does.
    """
    if kind not in _DUE:
        raise Invalid(f"there is no kind of wait {kind!r}: it is one of {', '.join(_DUE)}")
    asked = {"prompt": prompt, "data": data, "schema": schema, "approve": approve}
    place = {key: value for key, value in (("at", at), ("side", side)) if value is not None}
    begin = {"kind": kind, "name": name, "digest": digest, **place, "due_at": due_at}
    append(c, run, epoch, [NewEntry(BEGIN, op, begin | asked)], now)
    there = c.execute(select(_waits).filter_by(run=run, op=op)).first()
    if there is not None:
        return _row(there)
    wait = WaitId(new_id("wait"))
    c.execute(
        insert(_waits),
        [
            {
                "id": wait,
                "run": run,
                "op": op,
                "kind": kind,
                "created_at": now,
                "due_at": due_at,
                "state": OPEN,
                **asked,
            }
        ],
    )
    return get_wait(c, wait)


def inherit_wait(
    c: Connection,
    run: RunId,
    op: OpId,
    begun: Mapping[str, Any],
    *,
    now: float,
    due_at: float | None = None,
    value: Mapping[str, Any] | None = None,
) -> None:
    """Give a fork a wait of its own for `op`, which the log it shares says was `begun`: open, or
    ended with `value`, which its log has."""
    ended = {"state": value["status"], "value": value, "completed_at": now} if value else {}
    kept = ("kind", "prompt", "data", "schema", "approve")
    made = {
        "id": WaitId(new_id("wait")),
        "run": run,
        "op": op,
        "created_at": now,
        "due_at": due_at,
        "state": OPEN,
        **{key: begun[key] for key in kept},
    }
    c.execute(insert(_waits), [made | ended])


def get_wait(c: Connection, ref: str) -> WaitRow:
    """The wait whose id is `ref` or alone begins with it. Raises NotFound."""
    wait = resolve(c, _waits.c.id, ref, what="wait", prefix="wait_")
    return _row(c.execute(select(_waits).filter_by(id=wait)).one())


def list_waits(
    c: Connection,
    run: RunId | None = None,
    open_only: bool = True,
    *,
    limit: int | None = None,
    after: WaitId | None = None,
) -> list[WaitRow]:
    """Oldest first, at most `limit`, those made after wait `after` if given. Of a fork, those that
    have ended in what it shares are among them: the same rows as its origin's."""
    query = select(_waits).order_by(_waits.c.id).limit(limit)
    if after is not None:
        query = query.where(_waits.c.id > after)
    if open_only:
        query = query.where(_waits.c.state == OPEN)
    if run is not None:
        mine = _waits.c.run == run
        query = query.where(mine if open_only else or_(mine, _ended_in(run)))
    return [_row(row) for row in c.execute(query)]


def complete_wait(
    c: Connection, wait: WaitId, *, value: Mapping[str, Any], now: float, by: str | None = None
) -> bool:
    """End the wait with `value`: {status?, data?, approved?, note?}; status defaults to completed.

    True if this call ended it. If it had ended before: False for a timeout that comes too late,
    Conflict, saying how it ended, for anyone else. The run becomes ready. Raises NotFound,
    Invalid.
    """
    unknown = sorted(set(value) - {"status", "by", *_ANSWER})
    status = value.get("status", COMPLETED)
    if unknown or status not in _ENDS:
        raise Invalid(
            f"a wait cannot end with {', '.join(unknown) or f'status {status!r}'}",
            hint=f"Give status ({', '.join(_ENDS)}), {', '.join(_ANSWER)}.",
        )
    by = by if by is not None else value.get("by")
    outcome = {"status": status, **{key: value.get(key) for key in _ANSWER}, "by": by}
    result = {"ok": True, "value": outcome}
    check_object(result, "the answer")  # before anything is written
    ended = _end(c, wait, outcome, now)
    if ended is None:
        return _came_late(c, wait, status)
    told = {"wait": wait, **{key: outcome[key] for key in ("approved", "note", "by")}}
    began = read_op(c, ended.run, ended.op)
    result = {key: began[key] for key in ("kind", "name", "digest")} | result
    append(
        c,
        ended.run,
        None,
        [NewEntry(f"wait.{status}", ended.op, told), NewEntry(END, ended.op, result)],
        now,
    )
    return True


def cancel_waits(c: Connection, run: RunId, now: float) -> int:
    """End the run's open waits as cancelled; how many there were."""
    still_open = list_waits(c, run)
    for wait in still_open:
        complete_wait(c, wait.id, value={"status": CANCELLED}, now=now)
    return len(still_open)


def due_waits(c: Connection, now: float) -> list[WaitRow]:
    """Open waits whose time has come, earliest first."""
    query = select(_waits).where(_waits.c.state == OPEN, _waits.c.due_at <= now)
    return [_row(row) for row in c.execute(query.order_by(_waits.c.due_at, _waits.c.id))]


def end_due(c: Connection, now: float) -> list[WaitRow]:
    """End every due wait, sleeps as completed and others as timed out; what they were."""
    due = due_waits(c, now)
    for wait in due:
        complete_wait(c, wait.id, value={"status": _DUE[wait.kind]}, now=now)
    return due


def next_due(c: Connection) -> float | None:
    """When the next open wait falls due; None if none does."""
    due: float | None = c.scalar(select(func.min(_waits.c.due_at)).where(_waits.c.state == OPEN))
    return due


def _ended_in(run: RunId) -> ColumnElement[bool]:
    """Whether a wait ended in the part of the run's log that others wrote."""
    log = schema.log.c
    ended = (log.run == run, log.kind == END, log.source != run)
    return tuple_(_waits.c.run, _waits.c.op).in_(select(log.source, log.op).where(*ended))


def _end(c: Connection, wait: WaitId, outcome: Mapping[str, Any], now: float) -> _Ended | None:
    """Rule 11 in one statement: of several enders one finds the wait open."""
    row = c.execute(
        update(_waits)
        .where(_waits.c.id == wait, _waits.c.state == OPEN)
        .values(state=outcome["status"], value=outcome, completed_at=now, by=outcome["by"])
        .returning(_waits.c.run, _waits.c.op)
    ).first()
    return None if row is None else _Ended(*row)


def _came_late(c: Connection, wait: WaitId, status: str) -> bool:
    row = c.execute(select(_waits).filter_by(id=wait)).first()
    if row is None:
        raise NotFound(f"there is no wait {wait!r}")
    if status == TIMEOUT:
        return False
    ended = _row(row)
    assert ended.completed_at is not None
    at = datetime.fromtimestamp(ended.completed_at, UTC).isoformat(" ", "seconds")
    how = {COMPLETED: "answered", TIMEOUT: "timed out", CANCELLED: "cancelled"}[ended.state]
    raise Conflict(
        f"{wait} was {how} already, at {at}" + (f" by {ended.by}" if ended.by else ""),
        hint="What ended it first stands.",
    )


def _row(row: Any) -> WaitRow:
    return WaitRow(**row._mapping)
