"""Waits: what a run waits for from outside, answered, timed out or cancelled exactly once.

    open ──► completed | timeout | cancelled | failed (a child run has)
    refused: it never was open

A wait is an operation: making it appends its op.begin, ending it appends `wait.<state>` and the
op.end whose value tells the agent. Whoever's UPDATE finds the wait open ends it (rule 11); a
person who comes too late gets a Conflict, a timer that comes too late changes nothing.

Waits of one agent with the same idempotency key are one question (`answer_wait`): the answer to any
of them is the answer to all that are open, and one that is made after it has it at once. Each
times out and is cancelled for itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    String,
    cast,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from torpor.contextlog import permissions, schema
from torpor.contextlog.codecs import check_object
from torpor.contextlog.entries import BEGIN, END, NewEntry, append, read_op
from torpor.contextlog.news import Answered, Due, report
from torpor.contextlog.notices import queue_notice
from torpor.contextlog.refs import resolve
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import Epoch, OpId, RunId, WaitId, new_id
from torpor.core.permissions import KIND as PERMISSION
from torpor.core.permissions import RUN, decision_of
from torpor.core.states import RunState

OPEN, COMPLETED, TIMEOUT, CANCELLED = "open", "completed", "timeout", "cancelled"
FAILED, REFUSED = "failed", "refused"
_ENDS = (COMPLETED, TIMEOUT, CANCELLED, FAILED)
_HOW = {
    COMPLETED: "answered",
    TIMEOUT: "timed out",
    CANCELLED: "cancelled",
    FAILED: "failed",
    REFUSED: "refused",
}
# What falling due means: the time that was slept for has come, the answer has not.
_DUE = {
    "wait": TIMEOUT,
    "event": TIMEOUT,
    "sleep": COMPLETED,
    "doubt": TIMEOUT,
    "permission": TIMEOUT,
    "child": TIMEOUT,
}
WAITS = tuple(_DUE)  # the kinds of operations that are waits
_ANSWER = ("data", "approved", "note")
# The defaults of a wait's request: left out of its op.begin.
_DEFAULTS: dict[str, Any] = {"tags": [], "id_key": None, "webhooks": [], "remind_after": []}

ASKING = ("wait", "doubt", PERMISSION)  # a person

_waits, _runs, _agents = schema.waits, schema.runs, schema.agents


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
    tags: list[str]
    id_key: str | None
    webhooks: list[str]
    remind_after: list[float]
    reminded: int
    remind_at: float | None
    created_at: float
    due_at: float | None
    state: str
    value: dict[str, Any] | None
    completed_at: float | None
    by: str | None
    child: RunId | None

    @property
    def outcome(self) -> dict[str, Any]:
        """Of one that is not open any more, as its op.end has it."""
        if self.state == REFUSED:
            return {"ok": False, "error": self.value}
        return {"ok": True, "value": self.value}

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


class _Ended(NamedTuple):
    run: RunId
    op: OpId


@dataclass(frozen=True)
class NewWait:
    """Operation `op` as a wait of `kind` "wait", "event", "sleep", "doubt" (about a step) or
    "permission", whose data is the exact action (`core.permissions`).

    `due_at` is when it ends by itself; `at` and `side` are as in `entries`. One that is `refused`
    fails at once with that error; one that was answered before under its `id_key` has the answer.
    """

    op: OpId
    name: str
    digest: str
    kind: str
    at: str | None = None
    side: bool | None = None
    prompt: str = ""
    data: Any = None
    schema: Mapping[str, Any] | None = None
    approve: bool = False
    tags: Sequence[str] = ()
    id_key: str | None = None
    webhooks: Sequence[str] = ()
    remind_after: Sequence[float] = ()
    due_at: float | None = None
    refused: Mapping[str, Any] | None = None


def create_wait(c: Connection, run: RunId, epoch: Epoch, new: NewWait, now: float) -> WaitRow:
    """Begin a wait; the one there is if its operation began. Raises as `entries.append` does."""
    if new.kind not in _DUE:
        raise Invalid(f"there is no kind of wait {new.kind!r}: it is one of {', '.join(_DUE)}")
    shown = {key: getattr(new, key) for key in ("prompt", "data", "schema", "approve")}
    also: dict[str, Any] = {"tags": list(new.tags), "id_key": new.id_key}
    also |= {"webhooks": list(new.webhooks), "remind_after": sorted(new.remind_after)}
    begin: dict[str, Any] = {"kind": new.kind, "name": new.name, "digest": new.digest}
    place = (("at", new.at), ("side", new.side))
    begin |= {key: value for key, value in place if value is not None}
    begin |= {"due_at": new.due_at} | shown
    begin |= {key: value for key, value in also.items() if value != _DEFAULTS[key]}
    append(c, run, epoch, [NewEntry(BEGIN, new.op, begin)], now)
    there = c.execute(select(_waits).filter_by(run=run, op=new.op)).first()
    if there is not None:
        return _row(there)
    if new.refused is not None:
        also |= {"webhooks": [], "remind_after": []}
    refused = new.refused is not None
    wait = _insert(c, run, new.op, new.kind, shown | also, now, new.due_at, refused=refused)
    if new.refused is not None:
        _refuse(c, wait, new.refused, now)
    elif (answered := _answered_before(c, wait)) is not None:
        complete_wait(c, wait.id, value=answered, now=now)
    elif (given := permissions.given_for_run(c, wait.id)) is not None:
        _allow_for_run(c, wait.id, given, now)
    return get_wait(c, wait.id)


def _allow_for_run(c: Connection, wait: WaitId, given: Mapping[str, Any], now: float) -> None:
    """Complete a permission by the decision that was `given` for all of the run."""
    value = {"data": {"decision": RUN}, "approved": True}
    details = {"remembered": given["wait"]}
    complete_wait(c, wait, value=value, now=now, by=given["by"], details=details)


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
    request = {key: begun[key] for key in ("prompt", "data", "schema", "approve")}
    also = {key: begun.get(key, unasked) for key, unasked in _DEFAULTS.items()}
    also["child"] = begun.get("child")
    wait = _insert(c, run, op, begun["kind"], request | also, now, due_at)
    if value is not None:
        _end(c, wait.id, value, now)


def _insert(
    c: Connection,
    run: RunId,
    op: OpId,
    kind: str,
    request: Mapping[str, Any],
    now: float,
    due_at: float | None,
    *,
    refused: bool = False,
) -> WaitRow:
    row = new_wait(run, op, kind, request, now, due_at)
    c.execute(insert(_waits), [row])
    if kind == PERMISSION and not refused:
        permissions.remember(c, row["id"], run, op, request["data"])
    if request["webhooks"]:
        queue_notice(c, run, row["id"], request["webhooks"], 0, now)
    if row["due_at"] is not None or row["remind_at"] is not None:
        report(c, Due())
    return get_wait(c, row["id"])


def new_wait(
    run: RunId,
    op: OpId,
    kind: str,
    request: Mapping[str, Any],
    now: float,
    due_at: float | None = None,
) -> dict[str, Any]:
    """The row of a wait that is open."""
    request = {**_DEFAULTS, **request}
    row = {"id": WaitId(new_id("wait")), "run": run, "op": op, "kind": kind, "created_at": now}
    reminded = {"reminded": 0, "remind_at": _reminder(now, request["remind_after"], 0)}
    return {**row, "due_at": due_at, "state": OPEN, **reminded, **request}


def _reminder(since: float, after: Sequence[float], n: int) -> float | None:
    """When the `n`th reminder is due, counted from 0."""
    return since + after[n] if n < len(after) else None


def get_wait(c: Connection, ref: str) -> WaitRow:
    """The wait whose id is `ref` or alone begins with it. Raises NotFound."""
    wait = resolve(c, _waits.c.id, ref, what="wait", prefix="wait_")
    return _row(c.execute(select(_waits).filter_by(id=wait)).one())


def waits_for(c: Connection, run: RunId, ops: Sequence[str]) -> dict[OpId, WaitRow]:
    """Those of the run's waits that are these operations."""
    query = select(_waits).where(_waits.c.run == run, _waits.c.op.in_(ops))
    return {row.op: _row(row) for row in c.execute(query)}


@dataclass(frozen=True)
class Narrowed:
    """Which waits are meant, of all: at most `limit`, those made after wait `after`, with `tag`, of
    `kinds`, that are for approval or not, of runs of `agent`, with `text` in prompt, data or ids,
    if given."""

    limit: int | None = None
    after: WaitId | None = None
    tag: str | None = None
    kinds: Sequence[str] | None = None
    approve: bool | None = None
    agent: str | None = None
    text: str | None = None


ALL = Narrowed()


def list_waits(
    c: Connection, run: RunId | None = None, open_only: bool = True, narrowed: Narrowed = ALL
) -> list[WaitRow]:
    """Oldest first. Of a fork, those that have ended in what it shares are among them: the same
    rows as its origin's."""
    query = select(_waits).order_by(_waits.c.id).limit(narrowed.limit)
    if narrowed.after is not None:
        query = query.where(_waits.c.id > narrowed.after)
    if narrowed.kinds is not None:
        query = query.where(_waits.c.kind.in_(narrowed.kinds))
    if narrowed.tag is not None:
        tag = json.dumps(narrowed.tag)
        query = query.where(cast(_waits.c.tags, String).contains(tag, autoescape=True))
    if narrowed.approve is not None:
        query = query.where(_waits.c.approve == narrowed.approve)
    if narrowed.agent is not None:
        of_agent = select(_runs.c.id).where(_runs.c.agent == narrowed.agent)
        query = query.where(_waits.c.run.in_(of_agent))
    if narrowed.text:
        query = query.where(_mentions(narrowed.text))
    if open_only:
        query = query.where(_waits.c.state == OPEN)
    if run is not None:
        mine = _waits.c.run == run
        query = query.where(mine if open_only else or_(mine, _ended_in(run)))
    return [_row(row) for row in c.execute(query)]


def _mentions(text: str) -> ColumnElement[bool]:
    mentions = [
        column.icontains(text, autoescape=True)
        for column in (_waits.c.prompt, _waits.c.op, _waits.c.run, _waits.c.id)
    ]
    written = json.dumps(text)[1:-1]  # as JSON says it
    return or_(*mentions, cast(_waits.c.data, String).icontains(written, autoescape=True))


def agents_of(c: Connection, found: Sequence[WaitRow]) -> dict[RunId, str | None]:
    """Whose waits these are, by run."""
    query = select(_runs.c.id, _runs.c.agent).where(_runs.c.id.in_({wait.run for wait in found}))
    return {RunId(run): agent for run, agent in c.execute(query)}


def complete_wait(
    c: Connection,
    wait: WaitId,
    *,
    value: Mapping[str, Any],
    now: float,
    by: str | None = None,
    details: Mapping[str, Any] | None = None,
) -> bool:
    """End the wait with `value`: {status?, data?, approved?, note?, event?}; status defaults to
    completed. `details` are for the log alone, such as `origin`: from where the answer came.

    True if this call ended it. If it had ended before: False for a timeout that comes too late,
    Conflict, saying how it ended, for anyone else. The run becomes ready. Raises NotFound,
    Invalid.
    """
    unknown = sorted(set(value) - {"status", "by", "event", *_ANSWER})
    status = value.get("status", COMPLETED)
    if unknown or status not in _ENDS:
        raise Invalid(
            f"a wait cannot end with {', '.join(unknown) or f'status {status!r}'}",
            hint=f"Give status ({', '.join(_ENDS)}), {', '.join(_ANSWER)}.",
        )
    by = by if by is not None else value.get("by")
    outcome = {"status": status, **{key: value.get(key) for key in _ANSWER}, "by": by}
    if "event" in value:  # its place in the log
        outcome["event"] = value["event"]
    result = {"ok": True, "value": outcome}
    check_object(result, "the answer")  # before anything is written
    ended = _end(c, wait, outcome, now)
    if ended is None:
        return _came_late(c, wait, status)
    ending = {"wait": wait, **{key: outcome[key] for key in ("approved", "note", "by")}}
    ending |= details or {}
    result = _identified(c, ended.run, ended.op) | result
    append(
        c,
        ended.run,
        None,
        [NewEntry(f"wait.{status}", ended.op, ending), NewEntry(END, ended.op, result)],
        now,
    )
    report(c, Answered(ended.run, ended.op, outcome))
    return True


def answer_wait(
    c: Connection,
    wait: WaitRow,
    *,
    value: Mapping[str, Any],
    now: float,
    by: str | None = None,
    origin: str | None = None,
) -> list[WaitRow]:
    """Complete the wait, and all open ones that ask the same, or that a decision for all of the run
    covers; the waits that this ended. Raises as `complete_wait`."""
    details = {} if origin is None else {"origin": origin}
    complete_wait(c, wait.id, value=value, now=now, by=by, details=details)
    others = [other.id for other in _alike(c, wait, OPEN)]
    for other in others:
        complete_wait(c, other, value=value, now=now, by=by, details=details)
    if wait.kind == PERMISSION and decision_of({**value, "status": COMPLETED}).decision == RUN:
        covered = permissions.open_alike(c, wait.id)
        for other in covered:
            _allow_for_run(c, other, {"wait": wait.id, "by": by}, now)
        others += covered
    return [get_wait(c, each) for each in (wait.id, *others)]


def _answered_before(c: Connection, wait: WaitRow) -> dict[str, Any] | None:
    return next((each.value for each in _alike(c, wait, COMPLETED)), None)


def _alike(c: Connection, wait: WaitRow, state: str) -> list[WaitRow]:
    """The other waits of the same agent, of any version, that ask the same under the same
    idempotency key."""
    if wait.id_key is None:
        return []
    asker = (_agents.c.name, func.coalesce(_runs.c.agent, ""))
    mine = select(*asker).join_from(_runs, _agents).where(_runs.c.id == wait.run)
    query = select(_waits).join_from(_waits, _runs).join(_agents).order_by(_waits.c.id)
    query = query.where(
        _waits.c.id_key == wait.id_key,
        _waits.c.state == state,
        _waits.c.id != wait.id,
        _waits.c.approve == wait.approve,
        tuple_(*asker).in_(mine),
    )
    return [row for row in map(_row, c.execute(query)) if row.schema == wait.schema]


def _refuse(c: Connection, wait: WaitRow, error: Mapping[str, Any], now: float) -> None:
    refused = update(_waits).where(_waits.c.id == wait.id)
    c.execute(refused.values(state=REFUSED, value=error, completed_at=now, remind_at=None))
    refusal = {"wait": wait.id, "why": error["message"]}
    result = _identified(c, wait.run, wait.op) | {"ok": False, "error": dict(error)}
    entries = [NewEntry("wait.refused", wait.op, refusal), NewEntry(END, wait.op, result)]
    append(c, wait.run, None, entries, now)


def _identified(c: Connection, run: RunId, op: OpId) -> dict[str, Any]:
    began = read_op(c, run, op)
    return {key: began[key] for key in ("kind", "name", "digest")}


def end_child_waits(c: Connection, child: RunId, state: RunState, outcome: Any, now: float) -> None:
    """A run has ended so: end the waits for it, in the same write. `outcome` is its result, or
    its error."""
    waiting = select(_waits).where(_waits.c.child == child, _waits.c.state == OPEN)
    for wait in [_row(row) for row in c.execute(waiting)]:
        data = outcome
        if state is not RunState.COMPLETED:
            error = outcome or {}
            data = {key: error[key] for key in ("type", "message") if key in error}
        value = {"status": state.value, "data": data}
        complete_wait(c, wait.id, value=value, now=now, by=child)


def move_child_waits(c: Connection, child: RunId, successor: RunId) -> None:
    """Who waits for `child` waits from now on for what takes its place."""
    waiting = (_waits.c.child == child, _waits.c.state == OPEN)
    c.execute(update(_waits).where(*waiting).values(child=successor))


def cancel_waits(c: Connection, run: RunId, now: float) -> int:
    """End the run's open waits as cancelled; how many there were."""
    still_open = list_waits(c, run)
    for wait in still_open:
        complete_wait(c, wait.id, value={"status": CANCELLED}, now=now)
    return len(still_open)


def due_waits(c: Connection, now: float, limit: int | None = None) -> list[WaitRow]:
    """Open waits whose time has come, earliest first."""
    query = select(_waits).where(_waits.c.state == OPEN, _waits.c.due_at <= now).limit(limit)
    return [_row(row) for row in c.execute(query.order_by(_waits.c.due_at, _waits.c.id))]


def end_due(c: Connection, now: float, limit: int | None = None) -> list[WaitRow]:
    """End the due waits, at most `limit`, sleeps as completed and others as timed out; as they
    were before."""
    due = due_waits(c, now, limit)
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
        .values(
            state=outcome["status"],
            value=outcome,
            completed_at=now,
            by=outcome["by"],
            remind_at=None,
        )
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
    how = _HOW[ended.state]
    raise Conflict(
        f"{wait} was {how} already, at {at}" + (f" by {ended.by}" if ended.by else ""),
        hint="The first answer stands.",
    )


def _row(row: Any) -> WaitRow:
    return WaitRow(**row._mapping)
