"""What a run's driver does about a divergence, as `torpor.policy.divergence` decides.

The agent asks, before it goes on: an operation of kind `verdict`, named after the recorded
operation that it did not ask for. Its value, {go_on, taken}, is recorded with what follows from it:
what is superseded is no part of any later replay, but its names stay taken. An agent that may not
go on ends; then a fork may take over. A reload (`torpor.contextlog.reloads`) always goes on,
whatever its agent's file says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, entries, forks, reloads, runs, waits
from torpor.contextlog.entries import BEGIN, END, SUPERSEDED, NewEntry, append
from torpor.contextlog.forks import Rewrap
from torpor.contextlog.runs import RunRow
from torpor.core.divergence import LATEST, STOP
from torpor.core.ids import Epoch, OpId, RunId, Seq, op_number
from torpor.policy.divergence import Fork, GoOn, Stop, decide

_OP = re.compile(r"[^:]+:.*#[0-9]{1,15}", re.DOTALL)
HOW = "divergence"  # what such forks are called in the log


def judge(
    c: Connection, run: RunId, epoch: Epoch, begin: Mapping[str, Any], now: float
) -> dict[str, Any]:
    """Record the verdict that the message `begin` asks for. Its outcome."""
    op = OpId(begin["op"])
    named = {key: begin[key] for key in entries.IDENTITY if key in begin}
    message, ops = begin["data"]["message"], begin["data"]["superseded"]
    append(c, run, epoch, [NewEntry(BEGIN, op, named | {"data": {"message": message}})], now)
    known = entries.read_end(c, run, op)
    if known is not None:
        return known
    go_on = bool(ops) and isinstance(_decided(c, run, OpId(begin["name"])), GoOn)
    value = {"go_on": go_on, **({"taken": _highest(ops)} if go_on else {})}
    outcome = {"ok": True, "value": value}
    given_up = [NewEntry(SUPERSEDED, op, {"ops": ops})] if go_on else []
    append(c, run, epoch, [*given_up, NewEntry(END, op, outcome)], now)
    if go_on:
        for wait in waits.list_waits(c, run):
            if wait.op in ops:
                waits.complete_wait(c, wait.id, value={"status": waits.CANCELLED}, now=now)
    return outcome


def _highest(ops: Iterable[str]) -> list[str]:
    """Of each kind and name the one with the highest number; of what is the id of an operation."""
    found: dict[str, str] = {}
    for op in sorted(filter(_OP.fullmatch, ops), key=op_number):
        found[op.rpartition("#")[0]] = op
    return list(found.values())


def explained(error: Mapping[str, Any], successor: RunId | None) -> Mapping[str, Any]:
    """The error of a run that a fork takes the place of."""
    if successor is None:
        return error
    words = f"{error['message']}\nRun {successor}, a fork from before that, took over."
    return {**error, "message": words}


def take_over(
    c: Connection, run: RunId, recorded: OpId, rewrap: Rewrap, now: float
) -> RunId | None:
    """Create the fork that takes the place of a run whose agent did not ask for `recorded`, if one
    is to."""
    decision = _decided(c, run, recorded)
    if not isinstance(decision, Fork):
        return None
    origin = runs.get_run(c, run)
    fork = forks.fork_of(origin, Seq(decision.at), how=HOW, parent=origin.parent)
    return forks.fork_run(c, origin, fork, rewrap, now).id


def _decided(c: Connection, run: RunId, recorded: OpId) -> Stop | Fork | GoOn:
    row = runs.get_run(c, run)
    began = entries.began_at(c, run, recorded)
    if reloads.is_reload(c, row):  # other code is what it is for
        return decide(LATEST, began, 0)
    agent = agents.get_agent(c, row.version)
    return decide(agent.spec.get("on_divergence", STOP), began, _forks_before(c, run))


def _forks_before(c: Connection, run: RunId) -> int:
    """How many forks for a divergence led to this run."""
    count = 0
    row: RunRow | None = runs.get_run(c, run)
    while row is not None and (fork := forks.forked(c, row)) and fork["how"] == HOW:
        count += 1
        row = forks.find_run(c, fork["origin"])
    return count
