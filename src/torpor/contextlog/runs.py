"""Runs: one row each, moved only along the table in `torpor.core.states`.

Each move appends the entry that tells of it, in the same transaction.

`ready` means that the run wants a machine. One that is queued does from when it is due. Of one
that was claimed: since then something happened that its machine may not have seen (a result was
recorded, a cancellation was asked for), or it was handed over in the middle of its work. On
suspension it is put right against the snapshot: results that the snapshot was taken after do not
wake it; one that came between the pause and the record does (rule 11).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Text,
    cast,
    func,
    insert,
    or_,
    select,
    update,
)

from torpor.contextlog import lineage, schema
from torpor.contextlog.agents import AgentRow, find_agent
from torpor.contextlog.codecs import check_input, check_object
from torpor.contextlog.entries import NewEntry, append, begin_logs, journal_holds, refusal
from torpor.contextlog.files import files_of, take
from torpor.contextlog.news import CancelRequested, Claimable, Due, changed, report
from torpor.contextlog.queues import ensure_queues
from torpor.contextlog.refs import resolve
from torpor.contextlog.snapshots import newest_snapshot
from torpor.contextlog.waits import (
    OPEN,
    cancel_waits,
    end_child_waits,
    list_waits,
    move_child_waits,
)
from torpor.core.access import Grant
from torpor.core.errors import Conflict, InternalError, Invalid, NotFound
from torpor.core.ids import AgentVersion, Epoch, RunId, Seq, SnapshotId, WorkerId, new_id
from torpor.core.limits import ID_KEY_MAX
from torpor.core.rules import Rules
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import FINAL, UNFINISHED, RunState, may_follow
from torpor.core.workers import Lease

CANCEL_REQUESTED = "run.cancel_requested"

_runs = schema.runs

# What a claim is called in the log, by the state it takes the run from.
_CLAIMED = {
    RunState.QUEUED: "run.started",
    RunState.SUSPENDED: "run.resumed",
    RunState.RUNNING: "run.recovered",
}


@dataclass(frozen=True)
class RunRow:
    id: RunId
    version: AgentVersion
    agent: str | None
    engine: str
    state: RunState
    input: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    epoch: Epoch
    last_seq: Seq
    ready: bool
    created_at: float
    started_at: float | None
    ended_at: float | None
    ran_s: float
    slept_s: float
    waited_s: float
    state_since: float
    id_key: str | None
    origin: RunId | None
    origin_seq: Seq | None
    base: SnapshotId | None
    parent: RunId | None
    out_offset: int
    err_offset: int
    cancel_requested: bool
    queue: str
    queue_key: str | None
    priority: int
    not_before: float | None
    expires_at: float | None
    due_at: float | None
    patient: bool
    wall_until: float | None
    wake_at: float | None
    after: RunId | None
    successor: RunId | None
    attempt: int
    schedule: str | None
    id_key_until: float | None
    api_key: str | None
    env: dict[str, str]
    worker_id: WorkerId | None
    lease_until: float | None

    def to_json(self, now: float | None = None) -> dict[str, Any]:
        """As the API shows it; `ran_s` and `slept_s` up to `now` if given. Of `env` names only."""
        shown = {key: value for key, value in vars(self).items() if key not in _INTERNAL}
        figures = live_figures(self, self.state_since if now is None else now)
        return shown | {"state": self.state.value, "env": sorted(self.env)} | figures._asdict()


_INTERNAL = {
    *("ready", "id_key", "base", "out_offset", "err_offset", "cancel_requested"),
    *("due_at", "patient", "wall_until", "wake_at", "id_key_until", "waited_s"),
    *("worker_id", "lease_until", "api_key"),
}


class Figures(NamedTuple):
    ran_s: float
    slept_s: float


def live_figures(row: RunRow, now: float) -> Figures:
    """How long the run has been running and suspended up to `now`. Queued counts as neither."""
    elapsed_s = max(0.0, now - row.state_since)
    return Figures(
        row.ran_s + elapsed_s * (row.state is RunState.RUNNING),
        row.slept_s + elapsed_s * (row.state is RunState.SUSPENDED),
    )


def computed_s(row: RunRow, now: float) -> float:
    """How long the run has had a machine up to `now`, but for what it only waited with it."""
    return live_figures(row, now).ran_s - row.waited_s


class Scheduled(NamedTuple):
    """A run of this schedule, which begins when the run `after` has ended."""

    schedule: str
    after: RunId | None


def create_run(
    c: Connection,
    *,
    version: AgentVersion,
    agent: str | None,
    input: Mapping[str, Any],
    id_key: str | None = None,
    start: Start = AT_ONCE,
    cause: Scheduled | Grant | None = None,
    files: Mapping[str, str] | None = None,
    now: float,
) -> RunRow:
    """Queue a run, which has `files`: path → digest (`contextlog.files`). With an `id_key` that was
    used before, the run that it made is given, unless that was too long ago
    (`Start.id_key_for_s`). `cause` is what starts it: a schedule, or whoever was granted it.

    Raises NotFound (no such agent or file), Invalid (rule 13), Conflict (the key made another run).
    """
    check_input(input)
    if id_key is not None:
        if not 1 <= len(id_key) <= ID_KEY_MAX:
            raise Invalid(f"an id key must have 1 to {ID_KEY_MAX} characters, not {len(id_key)}")
        earlier = made_with(c, id_key)
        if earlier is not None and (earlier.id_key_until is None or now < earlier.id_key_until):
            had = {each.path: each.digest for each in files_of(c, earlier.id)}
            return _same(earlier, version, agent, input, start.env, had == (files or {}))
        if earlier is not None:
            c.execute(update(_runs).where(_runs.c.id == earlier.id).values(id_key=None))
    known = find_agent(c, version)
    if known is None:
        raise NotFound(f"there is no agent version {version!r}", hint="Deploy the agent first.")
    new = NewRun(
        RunId(new_id("run")),
        known,
        agent,
        input,
        id_key=id_key,
        start=start.check(),
        cause=cause,
        files=files or {},
    )
    insert_runs(c, [new], now)
    take(c, new.id, new.files)
    return _exactly(c, new.id)


def made_with(c: Connection, id_key: str) -> RunRow | None:
    """The run that was started with this key."""
    row = c.execute(select(_runs).where(_runs.c.id_key == id_key)).first()
    return None if row is None else _row(row)


@dataclass(frozen=True)
class NewRun:
    """A run that is to be; its input has been checked."""

    id: RunId
    version: AgentRow
    agent: str | None
    input: Mapping[str, Any]
    id_key: str | None = None
    parent: RunId | None = None
    start: Start = AT_ONCE
    cause: Scheduled | Grant | None = None
    api_key: str | None = None  # its parent's
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def queue(self) -> str:
        own = ":".join(filter(None, (self.version.name, self.agent)))
        return self.start.queue or self.version.rules.queue or own

    def row(self, now: float) -> dict[str, Any]:
        start, cause = self.start, self.cause
        schedule, after = cause if isinstance(cause, Scheduled) else (None, None)
        not_before = now + start.delay_s if start.delay_s else None
        expires_at = None if start.expires_s is None else (not_before or now) + start.expires_s
        return {
            "id": self.id,
            "version": self.version.version,
            "agent": self.agent,
            "engine": self.version.engine,
            "state": RunState.QUEUED.value,
            "input": self.input,
            "last_seq": 1,
            "created_at": now,
            "state_since": now,
            "id_key": self.id_key,
            "parent": self.parent,
            "queue": self.queue,
            "queue_key": start.key,
            "priority": start.priority,
            "not_before": not_before,
            "expires_at": expires_at,
            "ready": not_before is None and after is None,
            "due_at": not_before or expires_at,
            "after": after,
            "schedule": schedule,
            "id_key_until": None if start.id_key_for_s is None else now + start.id_key_for_s,
            "api_key": cause.key if isinstance(cause, Grant) else self.api_key,
            "env": dict(start.env),
        }


def insert_runs(c: Connection, several: Sequence[NewRun], now: float) -> None:
    """Queue runs: what costs one run most of its time costs many little more."""
    if not several:
        return
    used = schema.agents.c.version.in_({run.version.version for run in several})
    c.execute(update(schema.agents).where(used).values(used_at=now))
    ensure_queues(c, {run.queue for run in several}, now)
    c.execute(insert(_runs), [run.row(now) for run in several])
    lineage.start(c, *(run.id for run in several))
    begin_logs(c, [(run.id, NewEntry("run.created", None, _created(run))) for run in several], now)
    report(c, Claimable())
    if any(run.start.delay_s or run.start.expires_s is not None for run in several):
        report(c, Due())


def _created(run: NewRun) -> dict[str, Any]:
    created = {"version": run.version.version, "agent": run.agent, "engine": run.version.engine}
    names = sorted(run.start.env) or None
    cause = run.cause
    also: dict[str, Any] = {"parent": run.parent, "env": names}
    also["schedule"] = cause.schedule if isinstance(cause, Scheduled) else None
    also["by"] = cause.who if isinstance(cause, Grant) else None
    also["files"] = dict(run.files) or None
    known = {key: value for key, value in also.items() if value is not None}
    return {**created, "input": run.input, **known}


def get_run(c: Connection, ref: str) -> RunRow:
    """The run whose id is `ref` or alone begins with it. Raises NotFound."""
    return _exactly(c, RunId(resolve(c, _runs.c.id, ref, what="run", prefix="run_")))


def get_runs(c: Connection, ids: Sequence[RunId]) -> list[RunRow]:
    """In this order; those that there are."""
    rows = c.execute(select(_runs).where(_runs.c.id.in_(ids)))
    found = {row.id: row for row in map(_row, rows)}
    return [found[run] for run in ids if run in found]


def list_runs(
    c: Connection,
    states: Collection[RunState] | None = None,
    limit: int = 50,
    before: RunId | None = None,
    *,
    agent: str | None = None,
    text: str | None = None,
) -> list[RunRow]:
    """Newest first, at most `limit`, those made before run `before` if given, of `agent` if given,
    with `text` somewhere in id, agent, input, result or error."""
    query = select(_runs).order_by(_runs.c.id.desc()).limit(limit)
    if states is not None:
        query = query.where(_runs.c.state.in_([state.value for state in states]))
    if before is not None:
        query = query.where(_runs.c.id < before)
    if agent is not None:
        query = query.where(_runs.c.agent == agent)
    if text:
        query = query.where(_mentions(text))
    return [_row(row) for row in c.execute(query)]


def _mentions(text: str) -> ColumnElement[bool]:
    mentions = [_runs.c.id.icontains(text, autoescape=True)]
    mentions.append(_runs.c.agent.icontains(text, autoescape=True))
    written = json.dumps(text)[1:-1]  # as JSON says it
    for column in (_runs.c.input, _runs.c.result, _runs.c.error):
        mentions.append(cast(column, Text).icontains(written, autoescape=True))
    return or_(*mentions)


def runs_in(c: Connection, states: Collection[RunState]) -> list[RunRow]:
    """All runs in `states`, oldest first."""
    return _oldest_first(c, _runs.c.state.in_([state.value for state in states]))


def engines_of(c: Connection, states: Collection[RunState]) -> set[str]:
    """The engines of the runs in `states`."""
    wanted = _runs.c.state.in_([state.value for state in states])
    return set(c.scalars(select(_runs.c.engine).where(wanted).distinct()))


def changed_since(c: Connection, since: float) -> list[RunId]:
    """The runs that came into their state after `since`."""
    at = _runs.c.state_since
    return list(c.scalars(select(_runs.c.id).where(at > since).order_by(at)))


def claim(c: Connection, run: RunId, now: float, lease: Lease | None = None) -> Epoch:
    """Take the run for a new machine: it is running, under the epoch returned (rule 4), and nobody
    else's while the `lease` lasts.

    From `running` this is a recovery: the old machine is locked out. Raises Conflict when the
    run has ended, or another worker has it; NotFound.
    """
    row = _exactly(c, run, lock=True)
    _check_move(row, RunState.RUNNING)
    if row.state is RunState.RUNNING and lease is not None:
        lease.check(run, row.worker_id, row.lease_until, now)
    epoch = Epoch(row.epoch + 1)
    agent = find_agent(c, row.version)
    c.execute(
        update(_runs)
        .where(_runs.c.id == run)
        .values(
            **_moved(row, RunState.RUNNING, now, lease),
            epoch=epoch,
            ready=False,
            patient=False,
            wake_at=None,
            **limited(row, agent.rules if agent else Rules(), now),
            started_at=func.coalesce(_runs.c.started_at, now),
        )
    )
    append(c, run, epoch, [NewEntry(_CLAIMED[row.state], None, {})], now)
    return epoch


@dataclass(frozen=True)
class Suspension:
    """How a run is suspended. `seen` is how far it has seen its log, by default as far as its
    newest snapshot has. One that is `handed_over` was suspended at work: it is ready at once. One
    that is `patient` is ready when all that it waits for has ended, and not before; any is at
    `wake_at`."""

    seen: Seq | None = None
    handed_over: bool = False
    patient: bool = False
    wake_at: float | None = None


def suspend(
    c: Connection, run: RunId, epoch: Epoch | None, now: float, how: Suspension = Suspension()
) -> RunRow:
    """Suspend the run. In the write that records its snapshot, that makes the two one (rules 5, 6).
    Raises as `transition`."""
    row = _leaving(c, run, epoch, RunState.SUSPENDED)
    next_at = [at for at in (row.wall_until, how.wake_at) if at is not None]
    values = _moved(row, RunState.SUSPENDED, now)
    values |= {"wake_at": how.wake_at, "due_at": min(next_at, default=None)}
    newest = newest_snapshot(c, run)
    data: dict[str, Any] = {"snapshot": newest.id if newest else None}
    if how.wake_at is not None:
        data["wake_at"] = how.wake_at
        report(c, Due())
    seen = how.seen
    if seen is None:
        seen = newest.seq if newest else Seq(0)
    unseen = journal_holds(c, run, seen)
    values["ready"] = how.handed_over or (row.ready and (row.cancel_requested or unseen))
    if how.patient and not how.handed_over and not row.cancel_requested:
        values |= {"patient": True, "ready": unseen and not list_waits(c, run)}
    if how.handed_over:
        data["handed_over"] = True
    append(c, run, epoch, [NewEntry("run.suspended", None, data)], now)
    c.execute(update(_runs).where(_runs.c.id == run).values(**values))
    return _exactly(c, run)


def _leaving(c: Connection, run: RunId, epoch: Epoch | None, to: RunState) -> RunRow:
    """The run, which may go from its state `to` that one."""
    row = _exactly(c, run, lock=True)
    if epoch is not None and (epoch != row.epoch or row.state in FINAL):
        raise refusal(c, run, epoch)
    _check_move(row, to)
    return row


def transition(
    c: Connection,
    run: RunId,
    epoch: Epoch | None,
    to: RunState,
    now: float,
    *,
    result: Any = None,
    error: Mapping[str, Any] | None = None,
    successor: RunId | None = None,
) -> RunRow:
    """End the run, or suspend it as it is by default; `result` goes with completed, `error` with
    failed or cancelled. The `successor` takes its place.

    Ending it cancels its open waits (rule 11), and ends what its parent waits for with it. A run
    that is cancelled takes its children with it. `epoch` is that of the machine, None when the host
    decides. Raises StaleEpoch (also when the run has ended), Conflict (no such move), NotFound,
    Invalid (the result is not JSON, or too large).
    """
    if to is RunState.SUSPENDED:
        return suspend(c, run, epoch, now)
    if to is RunState.RUNNING:
        raise InternalError("a run gets to running by claim(), which makes the epoch")
    values = _moved(_leaving(c, run, epoch, to), to, now)
    data = {"result": result} if to is RunState.COMPLETED else {"error": error}
    # Before anything is written: what raises has changed nothing.
    check_object(data, "the run's outcome")
    cancel_waits(c, run, now)
    values |= {
        "result": result,
        "error": error,
        "ended_at": now,
        "ready": False,
        "due_at": None,
        "successor": successor,
    }
    append(c, run, epoch, [NewEntry(f"run.{to.value}", None, data)], now)
    c.execute(update(_runs).where(_runs.c.id == run).values(**values))
    if successor is not None:
        move_child_waits(c, run, successor)
        c.execute(update(_runs).where(_runs.c.after == run).values(after=successor))
    else:
        end_child_waits(c, run, to, result if error is None else error, now)
        followers = update(_runs).where(_runs.c.after == run, _runs.c.state == RunState.QUEUED)
        due = or_(_runs.c.not_before.is_(None), _runs.c.not_before <= now)
        c.execute(followers.where(due).values(ready=True))
        report(c, Claimable())
    if to is RunState.CANCELLED:
        for child in unwanted_children(c, run):
            request_cancel(c, child, now)
    return _exactly(c, run)


def newest(c: Connection, run: RunId) -> RunRow | None:
    """The run, or what took its place; None if it is not here."""
    row = c.execute(select(_runs).where(_runs.c.id == run)).first()
    while row is not None and row.successor is not None:
        row = c.execute(select(_runs).where(_runs.c.id == row.successor)).first()
    return None if row is None else _row(row)


def unwanted_children(c: Connection, parent: RunId) -> list[RunId]:
    """The unfinished children of a run that nobody waits for any more: not even a fork of it."""
    waited = select(schema.waits.c.id).where(
        schema.waits.c.child == _runs.c.id, schema.waits.c.state == OPEN
    )
    unfinished = _runs.c.state.in_(UNFINISHED)
    query = select(_runs.c.id).where(_runs.c.parent == parent, unfinished, ~waited.exists())
    return [RunId(run) for run in c.scalars(query.order_by(_runs.c.id))]


def children(c: Connection, parent: RunId) -> list[RunRow]:
    """The runs that it has spawned, and those that it waits for as a fork of who did; oldest
    first."""
    waited = select(schema.waits.c.child).where(schema.waits.c.run == parent)
    return _oldest_first(c, or_(_runs.c.parent == parent, _runs.c.id.in_(waited)))


def unbroken_since(c: Connection, run: RunId) -> Epoch:
    """The first of the epochs that each went on where the one before was frozen, up to the newest:
    since then no machine of the run was lost."""
    at = schema.entries.c
    recovered = (at.run == run, at.kind == _CLAIMED[RunState.RUNNING])
    return Epoch(c.scalar(select(func.max(at.epoch)).where(*recovered)) or 1)


def request_cancel(c: Connection, run: RunId, now: float) -> RunRow:
    """Note that the run is to be cancelled, and wake it for that. Raises Conflict, NotFound."""
    row = _exactly(c, run, lock=True)
    _check_move(row, RunState.CANCELLED)
    if not row.cancel_requested:  # what the agent does from here on is cleaning up
        append(c, run, None, [NewEntry(CANCEL_REQUESTED, None, {})], now)
    c.execute(update(_runs).where(_runs.c.id == run).values(cancel_requested=True, ready=True))
    changed(c, run)
    report(c, CancelRequested(run))
    report(c, Claimable())
    return _exactly(c, run)


def wake(c: Connection, run: RunId) -> None:
    """Somebody else than its agent needs the run's machine: if it sleeps, it is ready."""
    asleep = (_runs.c.id == run, _runs.c.state == RunState.SUSPENDED)
    c.execute(update(_runs).where(*asleep).values(ready=True))
    report(c, Claimable())


def limited(row: RunRow, rules: Rules, now: float) -> dict[str, Any]:
    """When a run that has a machine, or is claimed now, has to have ended, and when that is to be
    looked at."""
    until = row.wall_until
    if row.state is RunState.QUEUED and rules.max_wall_s is not None:
        until = now + rules.max_wall_s
    most_s = rules.max_compute_s
    compute = [] if most_s is None else [now + most_s - computed_s(row, now)]
    due = [*compute, *([] if until is None else [until])]
    return {"wall_until": until, "due_at": min(due, default=None)}


def _check_move(row: RunRow, to: RunState) -> None:
    if row.state in FINAL:
        raise Conflict(f"{row.id} is {row.state.value} already")
    if not may_follow(row.state, to):
        raise Conflict(f"{row.id} is {row.state.value} and cannot become {to.value}")


def _moved(row: RunRow, to: RunState, now: float, lease: Lease | None = None) -> dict[str, Any]:
    return {
        "state": to.value,
        "state_since": now,
        **live_figures(row, now)._asdict(),
        **(Lease.NONE if lease is None else lease.columns()),
    }


def _same(
    known: RunRow,
    version: AgentVersion,
    agent: str | None,
    input: Mapping[str, Any],
    env: Mapping[str, str],
    same_files: bool,
) -> RunRow:
    other = [
        what
        for what, same in (
            ("of another agent", (known.version, known.agent) == (version, agent)),
            ("with another input", known.input == input),
            ("with other environment variables", known.env == env),
            ("with other files", same_files),
        )
        if not same
    ]
    if other:
        raise Conflict(
            f"the id key {known.id_key!r} has made run {known.id}, {other[0]}",
            hint="Use a new key for a new run.",
        )
    return known


def _row(row: Any) -> RunRow:
    return RunRow(**{**row._mapping, "state": RunState(row.state)})


def _exactly(c: Connection, run: RunId, *, lock: bool = False) -> RunRow:
    query = select(_runs).where(_runs.c.id == run)
    row = c.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"there is no run {run!r}")
    return _row(row)


def _oldest_first(c: Connection, which: ColumnElement[bool]) -> list[RunRow]:
    return [_row(row) for row in c.execute(select(_runs).where(which).order_by(_runs.c.id))]
