"""Forks, retries and reloads, as people ask for them: which place is meant, and whether it makes
sense.

What a fork is, and what a retry tries again, is `torpor.contextlog.forks`'s to say; what a reload
keeps, `torpor.contextlog.reloads`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, forks, reloads, runs, snapshots
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.entries import read_result
from torpor.contextlog.forks import Fork, Rewrap, fork_of
from torpor.contextlog.runs import RunRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import AgentVersion, OpId, Seq
from torpor.core.states import RunState
from torpor.logstore.protocol import Store
from torpor.policy.edits import Edit
from torpor.policy.inputs import check_input
from torpor.service.runs import ForkRequest
from torpor.worker.loading import source_from
from torpor.worker.sealing import SealingKeys

SNAPSHOT_PREFIX = "snap_"
_RETRIABLE = (RunState.FAILED, RunState.CANCELLED)


class Forking:
    def __init__(self, store: Store, keys: SealingKeys, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock
        self._keys = keys

    async def fork(self, ref: str, request: ForkRequest) -> RunRow:
        """Raises Conflict, Invalid, NotFound, HostError."""
        return await self._make(ref, lambda c, origin: _requested(c, origin, request))

    async def retry(self, ref: str, version: str | None) -> RunRow:
        """A fork that shares all that the run recorded until it failed or was cancelled, but not
        what it failed for. Raises as `fork`."""

        def retried(c: Connection, origin: RunRow) -> Fork:
            if origin.state not in _RETRIABLE:
                raise Conflict(
                    f"{origin.id} is {origin.state.value}; only a failed or "
                    "cancelled run can be retried",
                    hint=f"You can fork it at any time: torpor fork {origin.id}",
                )
            changes = {"how": forks.RETRY, "retried": forks.failures(c, origin)}
            request = ForkRequest(version=version)
            return _of_version(c, origin, request, forks.shared_end(c, origin), changes)

        return await self._make(ref, retried)

    async def reload(self, ref: str, version: str, *, fresh: bool) -> RunRow:
        """The run that goes on in place of this one, or of what has its place already, as another
        version; `fresh` without anything recorded. Raises as `fork`."""
        rewrap: Rewrap = await self._keys.rewrapper()
        was, old, new = await self._store.read(lambda c: _codes(c, ref, version))
        edit = None if fresh else await asyncio.to_thread(Edit, old, new, was.input)

        def write(c: Connection) -> RunRow:
            origin = _newest(c, ref)
            if origin.version != was.version:
                raise Conflict(f"{origin.id} was just moved to another version: try again")
            kept = reloads.NOTHING if edit is None else reloads.kept_of(c, origin, edit.touched)

            def fork(at: Seq, **changes: Any) -> Fork:
                return _of_version(c, origin, ForkRequest(version=version), at, changes)

            return reloads.reload_run(c, origin, kept, fork, rewrap, self._clock.now())

        return await self._store.write(write)

    async def _make(self, ref: str, plan: Callable[[Connection, RunRow], Fork]) -> RunRow:
        rewrap: Rewrap = await self._keys.rewrapper()

        def write(c: Connection) -> RunRow:
            origin = runs.get_run(c, ref)
            return forks.fork_run(c, origin, plan(c, origin), rewrap, self._clock.now())

        return await self._store.write(write)


def _requested(c: Connection, origin: RunRow, request: ForkRequest) -> Fork:
    base = _snapshot(c, request.at)
    ops = {OpId(op): value for op, value in request.set.items()}
    changes: dict[str, Any] = {"how": request.how, "set": ops, "base": base and base.id}
    if request.by is not None:
        changes |= {"api_key": request.by.key, "details": {"by": request.by.who}}
    if request.input is not None:
        return _of_version(c, origin, request, _before_all(c, origin, request), changes)
    if base is not None:
        at = base.heard_seq
    elif isinstance(request.at, int):
        at = Seq(request.at)
    elif ops:
        at = max(_place(c, origin, op) for op in ops)
    else:
        at = forks.shared_end(c, origin)
    return _of_version(c, origin, request, at, changes)


def _of_version(
    c: Connection, origin: RunRow, request: ForkRequest, at: Seq, changes: Mapping[str, Any]
) -> Fork:
    agent = agents.get_agent(c, request.version or origin.version)
    offered = {each["name"]: each for each in agent.agents}
    given = origin.input if request.input is None else request.input
    if agent.version != origin.version or request.input is not None:
        if origin.agent not in offered:
            raise Conflict(f"{agent.entry} has no agent {origin.agent!r}, to which the run belongs")
        check_input(offered[origin.agent], given)
    return fork_of(origin, at, version=AgentVersion(agent.version), input=given, **changes)


def _newest(c: Connection, ref: str) -> RunRow:
    """The run, or what has its place."""
    run = runs.get_run(c, ref)
    return runs.newest(c, run.id) or run


def _codes(
    c: Connection, ref: str, version: str
) -> tuple[RunRow, Mapping[str, bytes], Mapping[str, bytes]]:
    """The run that would be reloaded, its files, and those of `version`."""
    origin, wanted = _newest(c, ref), agents.get_agent(c, version)
    return origin, _files(c, agents.get_agent(c, origin.version)), _files(c, wanted)


def _files(c: Connection, agent: AgentRow) -> Mapping[str, bytes]:
    return source_from(agent, agents.agent_source(c, agent.version)).files


def _before_all(c: Connection, origin: RunRow, request: ForkRequest) -> Seq:
    """Where a fork with another input begins: all that was recorded followed from the old one."""
    first = forks.first_operation(c, origin.id)
    late = isinstance(request.at, str) or (
        request.at is not None and first is not None and request.at >= first
    )
    if late or request.set:
        raise Conflict(
            "a run with another input starts at its beginning, because everything "
            f"recorded in {origin.id} followed from its input",
            hint="Give either an input, or a point of the log and results to set.",
        )
    return Seq(0)


def _place(c: Connection, origin: RunRow, op: OpId) -> Seq:
    result = read_result(c, origin.id, op)
    if result is None:
        raise NotFound(
            f"{op} has no result in the log of {origin.id}",
            hint=f"See: torpor logs {origin.id}. An open wait is answered, not set.",
        )
    return result.seq


def _snapshot(c: Connection, at: int | str | None) -> snapshots.SnapshotRow | None:
    if not isinstance(at, str):
        return None
    if not at.startswith(SNAPSHOT_PREFIX):
        raise Invalid(f"{at!r} is neither a position in the log nor a snapshot's id")
    row = snapshots.get_snapshot(c, at)
    if row.run is None:
        raise Conflict(f"{row.id} is a template", hint="Use torpor run, which starts from it.")
    return row
