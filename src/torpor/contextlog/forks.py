"""Forks: new runs that begin as others were at some place of their log.

    origin   1 ─ 2 ─ 3 ─ 4 ─ 5 … run.failed
                         └──► fork   run.forked ─ …   shares 1 to 4 (`lineage`)

All that a fork does is its own: its operations, their idempotency keys, its waits. What the shared
beginning records is recorded for it, too (rule 2): that does not happen again. An operation that
had begun there and had no result is in doubt (rule 3); a wait that was open there is opened anew
for the fork, to be answered once for each of them.

A fork begins from its *base*, the newest snapshot whose machine did nothing but what the fork
shares, or else from the template, replaying what it shares.

What a person permitted the origin, and had not been used where the fork begins, is nothing that the
fork may do: it asks again (`contextlog.permissions`).

Shared results may be replaced: *set* to another value, or taken back (*retried*), so that the
operation happens again. The entry that says so stands in the fork's log where the result stood in
its origin's, and its `run.forked` entry lists them.

A retry is a fork, too. What failed stays failed: others may have acted upon it, and a step's
failure is its one result (rules 1, 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from torpor.contextlog import codecs, events, lineage, schema
from torpor.contextlog.agents import find_agent
from torpor.contextlog.codecs import check_object
from torpor.contextlog.entries import BEGIN, END, NewEntry, append, read_result, superseded
from torpor.contextlog.files import share
from torpor.contextlog.keys import find_key, put_key
from torpor.contextlog.lineage import Part
from torpor.contextlog.news import Claimable, Due, changed, report
from torpor.contextlog.output import printed_before
from torpor.contextlog.runs import CANCEL_REQUESTED, RunRow, get_run, newest
from torpor.contextlog.snapshots import SnapshotRow, list_snapshots
from torpor.contextlog.waits import COMPLETED, WAITS, end_child_waits, inherit_wait
from torpor.core import jsonvalues
from torpor.core.artifacts import FILE
from torpor.core.children import failure
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import AgentVersion, OpId, RunId, Seq, SnapshotId, new_id, op_name
from torpor.core.permissions import KIND as PERMISSION
from torpor.core.replies import HTTP_ERROR
from torpor.core.states import FINAL, RunState

FORKED, RETRIED, RETRY = "run.forked", "op.retried", "retry"
_ENDINGS = ("wait.cancelled", CANCEL_REQUESTED, *(f"run.{state.value}" for state in sorted(FINAL)))
# A model's answer that its client takes for a failure.

_log, _runs = schema.log, schema.runs
_IN_ORDER = (_log.c.part, _log.c.seq)
# What was kept at the end was not begun by the agent.
_OF_FILE = schema.begins_with(_log.c.op, f"{FILE}:")

# (whose key, as it is wrapped, whose it is to be) → wrapped for that one
Rewrap = Callable[[RunId, bytes, RunId], bytes]


@dataclass(frozen=True)
class Fork:
    """What a fork is to be. `how`: "fork", "retry", or whatever else made it one, in a word."""

    at: Seq
    version: AgentVersion
    agent: str | None
    input: Mapping[str, Any]
    how: str = "fork"
    base: SnapshotId | None = None  # that one and no other
    set: Mapping[OpId, Any] = field(default_factory=dict)  # operation → its value
    retried: frozenset[OpId] = frozenset()
    parent: RunId | None = None  # whose child it is in its origin's place
    attempt: int = 1
    not_before: float | None = None
    api_key: str | None = None  # whose limits it counts under
    details: Mapping[str, Any] = field(default_factory=dict)  # what else its first entry has


def fork_of(origin: RunRow, at: Seq, **changes: Any) -> Fork:
    """A fork as its origin is, but for `changes`."""
    same = {"version": origin.version, "agent": origin.agent, "input": origin.input}
    same["api_key"] = origin.api_key
    return Fork(at, **{**same, **changes})


def fork_run(c: Connection, origin: RunRow, fork: Fork, rewrap: Rewrap, now: float) -> RunRow:
    """Queue a fork of `origin`.

    Raises Conflict (a place that there is not; an operation without a result to be replaced; a
    base that does not serve), Invalid (a value that the operation cannot have), NotFound.
    """
    _check_place(c, origin, fork)
    fork = replace(fork, retried=fork.retried | _unused_permissions(c, origin.id, fork.at))
    replaced = _replaced(c, origin, fork)
    run = RunId(new_id("run"))
    parts = lineage.fork_parts(lineage.parts(c, origin.id), run, fork.at, list(replaced))
    base = _base(c, origin, fork, parts)
    agent = find_agent(c, fork.version)
    if agent is None:
        raise NotFound(
            f"there is no agent version {fork.version!r}", hint="Deploy the agent first."
        )
    used = update(schema.agents).where(schema.agents.c.version == fork.version)
    c.execute(used.values(used_at=now))
    c.execute(
        insert(_runs),
        [
            {
                "id": run,
                "version": fork.version,
                "agent": fork.agent,
                "engine": agent.engine,
                "state": RunState.QUEUED.value,
                "input": fork.input,
                "epoch": _epoch(c, origin.id, fork.at),
                "last_seq": fork.at,
                "created_at": now,
                "state_since": now,
                "origin": origin.id,
                "origin_seq": fork.at,
                "base": base.id if base else None,
                "parent": fork.parent,
                "queue": origin.queue,
                "queue_key": origin.queue_key,
                "priority": origin.priority,
                "ready": fork.not_before is None,
                "not_before": fork.not_before,
                "due_at": fork.not_before,
                "attempt": fork.attempt,
                "schedule": origin.schedule,
                "api_key": fork.api_key,
                "env": origin.env,
                "out_offset": printed_before(c, origin.id, "stdout", fork.at, 0, 0)[0],
                "err_offset": printed_before(c, origin.id, "stderr", fork.at, 0, 0)[0],
            }
        ],
    )
    lineage.write(c, run, parts)
    share(c, origin.id, run)
    if base is not None and base.run is not None and (key := find_key(c, base.run)) is not None:
        put_key(c, run, rewrap(base.run, key, run))
    for seq, entry in replaced.items():
        row = {"seq": seq, "kind": entry.kind, "op": entry.op, "data": entry.data}
        c.execute(insert(schema.entries), [{"run": run, "at": now, "epoch": None, **row}])
        codecs.record(c, run, seq, entry.kind, entry.op, entry.data)
    _inherit_waits(c, run, fork, rewrap, now)
    events.read_events(c, run, now)
    forked = {
        "origin": origin.id,
        "seq": fork.at,
        "how": fork.how,
        "base": base and base.id,
        "version": fork.version,
        "agent": fork.agent,
        "input": fork.input,
        "set": sorted(fork.set),
        "retried": sorted(fork.retried),
        **fork.details,
    }
    append(c, run, None, [NewEntry(FORKED, None, forked)], now)
    changed(c, run)
    report(c, Claimable())
    report(c, Due())
    return get_run(c, run)


def retry_of(c: Connection, origin: RunRow, **changes: Any) -> Fork:
    """A fork that shares all that its origin recorded before it ended, but not why it failed."""
    given = {"how": RETRY, "retried": failures(c, origin)} | changes
    return fork_of(origin, shared_end(c, origin), **given)


def shared_end(c: Connection, run: RunRow) -> Seq:
    """How much of the run's log a fork may share: all that there is, but not how it ended."""
    query = select(_log.c.seq, _log.c.op).where(_log.c.run == run.id, _log.c.kind.in_(_ENDINGS))
    given_up = superseded(c, run.id)  # a wait that was, ended in the middle of its life
    endings = (seq for seq, op in c.execute(query.order_by(*_IN_ORDER)) if op not in given_up)
    ending = next(endings, None)
    return run.last_seq if ending is None else Seq(ending - 1)


def first_operation(c: Connection, run: RunId) -> Seq | None:
    """Where the first operation of the run begins."""
    began = (_log.c.run == run, _log.c.kind == BEGIN)
    query = select(_log.c.seq).where(*began).order_by(_log.c.part, _log.c.seq).limit(1)
    found: Seq | None = c.scalar(query)
    return found


def failures(c: Connection, run: RunRow) -> frozenset[OpId]:
    """The operations that a retry of the run, which has failed, has to try again.

    A failure that the agent has dealt with is history like any other: were it tried again, what
    came after would not follow from it. So these are: the failed step whose error became the
    run's, the last if several had the same; failures after which nothing was begun; and what the
    model refused to any of these steps, which would only be refused again.
    """
    end = shared_end(c, run)
    failed = [each for each in _outcomes(c, run.id, end) if each.failed]
    began = (_log.c.run == run.id, _log.c.kind == BEGIN, _log.c.seq <= end, ~_OF_FILE)
    began_last = c.scalar(select(func.max(_log.c.seq)).where(*began)) or 0
    error = run.error or {}
    fatal = [each for each in failed if each.error_is(error)][-1:]
    again = fatal + [each for each in failed if each.ended > began_last]
    steps = [each.began for each in again if each.kind == "step"]
    refused = [e for e in failed if e.kind == "model" and steps and e.began > min(steps)]
    return frozenset(each.op for each in (*again, *refused))


def forked(c: Connection, run: RunRow) -> dict[str, Any] | None:
    """What its `run.forked` entry says of a fork."""
    if run.origin_seq is None:
        return None
    # Not always the first entry: what ended the waits that it shares may stand before.
    own = (_log.c.run == run.id, _log.c.seq > run.origin_seq, _log.c.kind == FORKED)
    first = select(_log.c.data).where(*own).order_by(_log.c.seq).limit(1)
    data: dict[str, Any] = c.scalars(first).one()
    return data


def forks_of(c: Connection, run: RunId) -> list[RunRow]:
    """The forks of this very run, oldest first."""
    query = select(_runs.c.id).where(_runs.c.origin == run).order_by(_runs.c.id)
    return [get_run(c, fork) for fork in c.scalars(query)]


def family(c: Connection, run: RunRow) -> list[RunRow]:
    """The run, the runs that it came from as far as they are here, and all that came from these:
    each after its origin."""
    root = run
    while root.origin is not None and (known := find_run(c, root.origin)) is not None:
        root = known
    members = [root]
    for member in members:  # which grows
        members += forks_of(c, member.id)
    return members


@dataclass(frozen=True)
class _OpOutcome:
    """How an operation of the shared log ended, and where it began and ended."""

    op: OpId
    kind: str
    began: int
    ended: int
    outcome: Mapping[str, Any]

    @property
    def failed(self) -> bool:
        if not self.outcome["ok"]:
            return True
        value = self.outcome.get("value")
        status = value.get("status") if isinstance(value, dict) else None
        if self.kind == "child":
            return status != COMPLETED
        return self.kind == "model" and isinstance(status, int) and status >= HTTP_ERROR

    def error_is(self, error: Mapping[str, Any]) -> bool:
        mine = self.outcome.get("error") or {}
        if self.kind == "child" and self.failed:
            mine = failure(op_name(self.op), self.outcome["value"])
        keys = ("type", "message")
        return bool(mine) and all(mine.get(key) == error.get(key) for key in keys)


def _outcomes(c: Connection, run: RunId, upto: int) -> list[_OpOutcome]:
    """In the order of their ends."""
    began: dict[str, tuple[int, str]] = {}
    found = []
    kinds = _log.c.kind.in_((BEGIN, END))
    query = select(_log.c.seq, _log.c.kind, _log.c.op, _log.c.data)
    query = query.where(_log.c.run == run, _log.c.seq <= upto, kinds)
    for seq, kind, op, data in c.execute(query.order_by(_log.c.part, _log.c.seq)):
        if kind == BEGIN:
            began[op] = seq, data["kind"]
        else:
            at, of_kind = began[op]
            found.append(_OpOutcome(op, of_kind, at, seq, data))
    return found


def _check_place(c: Connection, origin: RunRow, fork: Fork) -> None:
    end = shared_end(c, origin)
    if not 0 <= fork.at <= end:
        ended = f", where it {origin.state.value}" if origin.state in FINAL else ""
        raise Conflict(
            f"{origin.id} cannot be forked at {fork.at}: its log ends at {end}{ended}",
            hint=f"Give a number from 0 to {end}. See: torpor logs {origin.id}",
        )


def _replaced(c: Connection, origin: RunRow, fork: Fork) -> dict[int, NewEntry]:
    """Position → what stands there instead."""
    replaced = {}
    for op in sorted({*fork.set, *fork.retried}):
        found = read_result(c, origin.id, op)
        if found is None or found.seq > fork.at:
            raise Conflict(
                f"{op} has no result in the first {fork.at} entries of {origin.id}",
                hint=f"See: torpor logs {origin.id}. An open wait is answered, not set.",
            )
        was = {key: found.data[key] for key in ("ok", "value", "error") if key in found.data}
        if op in fork.set:
            printed = {"printed": found.data["printed"]} if "printed" in found.data else {}
            value = _checked(op, fork.set[op])
            data = {"ok": True, "value": value, "set": {"was": was}} | printed
            replaced[int(found.seq)] = NewEntry(END, op, _fitting(op, data))
        else:
            replaced[int(found.seq)] = NewEntry(RETRIED, op, {"was": was})
    return replaced


def _fitting(op: OpId, data: dict[str, Any]) -> dict[str, Any]:
    try:
        check_object(data, f"the result of {op}")
    except Invalid:  # both together may be too large; what it was is in the origin's log
        data["set"] = {}
        check_object(data, f"the result of {op}")
    return data


def _checked(op: OpId, value: Any) -> Any:
    """A value that an operation of its kind can have. Raises Invalid."""
    if (wrong := jsonvalues.fault(value)) is not None:
        raise Invalid(f"the result of {op} {wrong}")
    match op.partition(":")[0], value:
        case "event", value:
            return {
                "status": "completed",
                "data": value,
                "approved": None,
                "note": None,
                "by": None,
            }
        case "wait", {**given} if not set(given) - {"data", "approved", "note", "by"}:
            keys = ("data", "approved", "note", "by")
            return {"status": "completed", **{key: given.get(key) for key in keys}}
        case "wait", _:
            raise Invalid(
                f"{op} is a wait: its result is an answer",
                hint='Give {"approved": true, "note": "…"} or {"data": …}.',
            )
        case "permission", _:
            raise Invalid(
                f"{op} is a permission: it is given where it is asked for",
                hint="Fork before it: the fork asks again.",
            )
        case "child", _:
            answer = dict.fromkeys(("data", "approved", "note", "by"))
            return {"status": COMPLETED, **answer, "data": value}
        case (("artifact" | "file"), _):
            raise Invalid(f"{op} published a file; its result cannot be replaced")
        case (("model" | "http"), {"status": int(), "headers": dict(), "body": str()}):
            return value
        case (("model" | "http"), _):
            raise Invalid(
                f"{op} is a recorded request: its result is an HTTP response",
                hint='Give {"status": 200, "headers": {…}, "body": "…"}.',
            )
    return value


def _base(c: Connection, origin: RunRow, fork: Fork, parts: list[Part]) -> SnapshotRow | None:
    """The newest snapshot that serves: of the fork's code, and of a run whose log, up to where
    the snapshot was taken, is the fork's."""
    serving: list[SnapshotRow] = []
    if (fork.version, fork.agent, fork.input) == (origin.version, origin.agent, origin.input):
        for source in {origin.id, *(part.source for part in parts)}:
            theirs = lineage.parts(c, source)
            serving += [
                row
                for row in list_snapshots(c, source)
                if row.heard_seq <= fork.at
                and row.version == fork.version
                and lineage.same_upto(theirs, parts, row.heard_seq)
            ]
    if fork.base is not None and fork.base not in [row.id for row in serving]:
        raise Conflict(
            f"{fork.base} cannot be used for this fork: its machine has seen more "
            "than the fork shares",
            hint="Fork from a position in the log instead.",
        )
    serving = [row for row in serving if fork.base in (None, row.id)]
    return max(serving, key=lambda row: (row.heard_seq, row.id), default=None)


def _epoch(c: Connection, run: RunId, at: int) -> int:
    """The newest in the log up to there, so that epochs only grow in the fork's, too."""
    wrote = (_log.c.run == run, _log.c.seq <= at, _log.c.epoch.is_not(None))
    newest = select(_log.c.epoch).where(*wrote).order_by(_log.c.part.desc(), _log.c.seq.desc())
    return c.scalar(newest.limit(1)) or 0


def _inherit_waits(c: Connection, run: RunId, fork: Fork, rewrap: Rewrap, now: float) -> None:
    """Rows for the waits that are open at the fork's place, and for those whose answer was set."""
    frozen_at = c.scalar(select(_log.c.at).where(_log.c.run == run, _log.c.seq == fork.at)) or now
    given_up = superseded(c, run)
    for op, begun in c.execute(_begun(run, fork.at)):
        if begun["kind"] not in WAITS or op in given_up:
            continue
        result = read_result(c, run, op)
        if result is None and begun["kind"] == "child":
            _inherit_child(c, run, op, begun, fork, rewrap, now)
        elif result is None:
            # A timeout has as long to go as it had there; what is slept until is a time.
            due_at = begun["due_at"]
            if due_at is not None and begun["kind"] != "sleep":
                due_at += now - frozen_at
            inherit_wait(c, run, op, begun, due_at=due_at, now=now)
        elif op in fork.set:
            inherit_wait(c, run, op, begun, value=result.data["value"], now=now)


def _inherit_child(
    c: Connection,
    run: RunId,
    op: OpId,
    begun: Mapping[str, Any],
    fork: Fork,
    rewrap: Rewrap,
    now: float,
) -> None:
    """A fork waits for the child that its origin has spawned, a retry for a retry of it if it has
    not completed. One that could not even be created is spawned again when the agent
    waits for it."""
    child = newest(c, begun["child"])
    if child is None:
        return
    if fork.how == RETRY and child.state in FINAL and child.state is not RunState.COMPLETED:
        child = fork_run(c, child, retry_of(c, child, parent=run), rewrap, now)
    inherit_wait(c, run, op, {**begun, "child": child.id}, now=now)
    if child.state in FINAL:
        end_child_waits(c, child.id, child.state, child.error or child.result, now)


def _unused_permissions(c: Connection, run: RunId, upto: int) -> frozenset[OpId]:
    """Those that had ended there, and that no operation had used. Of one that is for no operation
    (`torpor.ask_permission`): after which none had begun."""
    mine = (_log.c.run == run, _log.c.seq <= upto)
    permission = schema.begins_with(_log.c.op, f"{PERMISSION}:")
    query = select(_log.c.op, _log.c.seq).where(*mine, permission, _log.c.kind == END)
    ended = {OpId(op): seq for op, seq in c.execute(query)}
    if not ended:
        return frozenset()
    used, last = set[str](), 0
    begun = select(_log.c.op, _log.c.seq, _log.c.data).where(*mine, _log.c.kind == BEGIN)
    bound = set[str]()
    for op, seq, data in c.execute(begun):
        last, given = max(last, seq), data.get("data")
        if data["kind"] != PERMISSION:
            used.add(str(given.get("permission")) if isinstance(given, dict) else "")
        elif isinstance(given, dict) and ("request" in given or given.get("step")):
            bound.add(op)
    return frozenset(
        op for op, seq in ended.items() if op not in used and (op in bound or seq > last)
    )


def _begun(run: RunId, upto: int) -> Select[Any]:
    began = (_log.c.run == run, _log.c.kind == BEGIN, _log.c.seq <= upto)
    return select(_log.c.op, _log.c.data).where(*began).order_by(_log.c.part, _log.c.seq)


def find_run(c: Connection, run: RunId) -> RunRow | None:
    """The run; None if it is not here."""
    there = c.scalar(select(_runs.c.id).where(_runs.c.id == run))
    return None if there is None else get_run(c, run)
