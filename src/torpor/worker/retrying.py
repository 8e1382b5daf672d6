"""Runs that are tried again by themselves, as their agent's file says (`torpor.policy.retries`).

The retry is made in the write in which its run fails, and takes its place: who waits for the failed
run as its child waits for the retry from then on, and so does what a schedule starts after it. To
everybody else a failed run has failed; its error names the retry, and so does its `successor`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, forks, runs
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.forks import Rewrap
from torpor.core.ids import AgentVersion, RunId
from torpor.engine import registry
from torpor.logstore.sqlite import LogStore
from torpor.policy.retries import decide
from torpor.worker.loading import source_from
from torpor.worker.sealing import Keys

_chance = random.SystemRandom()


async def rewrapper(
    store: LogStore, keys: Keys, run: RunId, error: Mapping[str, Any] | None
) -> Rewrap | None:
    """What a fork that may take the run's place needs, if it fails with `error`; None if none may:
    a run can fail without the host's key."""

    def may(c: Connection) -> bool:
        rules = agents.get_agent(c, runs.get_run(c, run).version).rules
        return rules.retries > 0 or rules.memory_max_mib is not None

    wanted = error is not None and ("diverged" in error or await store.read(may))
    return await keys.rewrapper() if wanted else None


def told(
    c: Connection, run: RunId, error: Mapping[str, Any], rewrap: Rewrap, now: float
) -> dict[str, Any]:
    """The `error` of a run that fails with it now: with the retry that takes over, which is made
    here, if one is to."""
    row = runs.get_run(c, run)
    agent = agents.get_agent(c, row.version)
    memory_mib = agent.spec.get("memory_mib") if registry.isolates(row.engine) else None
    retry = decide(error, row.attempt, agent.rules, memory_mib, _chance.random())
    if retry is None or row.cancel_requested:
        return dict(error)
    changes: dict[str, Any] = {"parent": row.parent, "attempt": row.attempt + retry.counts}
    if retry.delay_s:
        changes["not_before"] = now + retry.delay_s
    if retry.memory_mib is not None:
        changes["version"] = _grown(c, agent, retry.memory_mib, now)
    failed = replace(row, error=dict(error))
    made = forks.fork_run(c, row, forks.retry_of(c, failed, **changes), rewrap, now)
    return {**error, "retry": made.id}


def _grown(c: Connection, agent: AgentRow, memory_mib: int, now: float) -> AgentVersion:
    """The same agent with more memory: another version, whose template its first run makes."""
    tar = agents.agent_source(c, agent.version)
    source = replace(source_from(agent, tar), memory_mib=memory_mib)
    made = agents.put_agent(
        c,
        version=source.version(registry.get(agent.engine).base_of(agent.spec["image"])),
        name=agent.name,
        entry=agent.entry,
        source=tar,
        spec=agent.spec | {"memory_mib": memory_mib},
        now=now,
        agents=agent.agents,
        deployed=False,
    )
    return made.version
