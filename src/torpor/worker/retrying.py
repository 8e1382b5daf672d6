"""Runs that are tried again by themselves, as their agent's file says (`torpor.policy.retries`).

The retry is made in the write in which its run fails, and takes its place: who waits for the failed
run as its child waits for the retry from then on, and so does what a schedule starts after it. To
everybody else a failed run has failed; its `successor` is the retry.
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
from torpor.logstore.protocol import Store
from torpor.policy.retries import Failure, decide
from torpor.worker.loading import source_from
from torpor.worker.sealing import SealingKeys

_chance = random.SystemRandom()


async def rewrapper(store: Store, keys: SealingKeys, run: RunId, failure: Failure) -> Rewrap | None:
    """What a fork that may take the run's place needs, if it fails so; None if none may: a run can
    fail without the host's key."""

    def may(c: Connection) -> bool:
        rules = agents.get_agent(c, runs.get_run(c, run).version).rules
        return rules.retries > 0 or rules.memory_max_mib is not None

    wanted = failure.diverged is not None or await store.read(may)
    return await keys.rewrapper() if wanted else None


def retry(
    c: Connection,
    run: RunId,
    error: Mapping[str, Any],
    failure: Failure,
    rewrap: Rewrap,
    now: float,
) -> RunId | None:
    """Create the retry that takes the place of a run that fails now with `error`, if one is to."""
    row = runs.get_run(c, run)
    agent = agents.get_agent(c, row.version)
    memory_mib = agent.spec.get("memory_mib") if registry.isolates(row.engine) else None
    retry = decide(failure, row.attempt, agent.rules, memory_mib, _chance.random())
    if retry is None or row.cancel_requested:
        return None
    changes: dict[str, Any] = {"parent": row.parent, "attempt": row.attempt + retry.counts}
    if retry.delay_s:
        changes["not_before"] = now + retry.delay_s
    if retry.memory_mib is not None:
        changes["version"] = _grown(c, agent, retry.memory_mib, now)
    failed = replace(row, error=dict(error))
    return forks.fork_run(c, row, forks.retry_of(c, failed, **changes), rewrap, now).id


def _grown(c: Connection, agent: AgentRow, memory_mib: int, now: float) -> AgentVersion:
    """The same agent with more memory: another version, whose template its first run makes."""
    tar = agents.agent_source(c, agent.version)
    source = replace(source_from(agent, tar), memory_mib=memory_mib)
    grown = agents.put_agent(
        c,
        agents.NewAgent(
            version=source.version(registry.get(agent.engine).base_of(agent.spec["image"])),
            engine=agent.engine,
            name=agent.name,
            entry=agent.entry,
            source=tar,
            spec=agent.spec | {"memory_mib": memory_mib},
            agents=agent.agents,
            deployed=False,
        ),
        now,
    )
    return grown.version
