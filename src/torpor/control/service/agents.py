"""Agents: deployed, from a source to a version that can run; found; retired.

    source ── version known? ── yes ──► current again, at once
                     └── no ──► loaded on its engine, a template made ──► kept, current

A version whose template does not serve here, as after an upgrade of the host, gets another.
One deployment of a version is under way at a time; the others wait for it and find it done.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, deployments
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.deployments import Chosen, Preference
from torpor.control import engines
from torpor.control.engines import Engines
from torpor.core.agentfile import AgentSource, no_agent
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.defining import may_define_agents
from torpor.core.errors import Conflict, Invalid
from torpor.core.ids import AgentVersion
from torpor.engine import registry
from torpor.logstore.protocol import Store
from torpor.service.agents import Agent, Deployed, Deployment, DescribedAgent, Report
from torpor.service.shapes import reply
from torpor.worker.loading import tar_of
from torpor.worker.templates import keep_template


class Agents:
    """See `torpor.service.agents.Agents`."""

    def __init__(self, store: Store, engines: Engines, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._engines, self._clock = store, engines, clock
        self._under_way: dict[AgentVersion, asyncio.Lock] = {}

    async def deploy(
        self, source: AgentSource, report: Report, engine: str | None = None
    ) -> Deployed:
        if not source.dependencies and not may_define_agents(source.files):
            raise no_agent(source.entry)
        loop = asyncio.get_running_loop()

        def progress(stage: str, message: str, fraction: float | None) -> None:
            loop.call_soon_threadsafe(report, stage, message, fraction)

        entry = registry.get(engine or source.rules.engine or self._engines.choice.engine)
        ready = await self._engines.ready(entry.name, progress)
        version = source.version(entry.base_of(ready.image))
        async with self._under_way.setdefault(version, asyncio.Lock()):
            known = await self._deployed_before(version, source)
            if known is not None and await ready.has(known, source, progress):
                return _reported(known, cached=True)
            deployed = await ready.deploy(source, version, progress)
            row = await self._store.write(
                lambda c: _keep(
                    c, source, version, entry.name, ready.image, deployed, self._clock.now()
                )
            )
        return _reported(row, cached=False)

    async def _deployed_before(self, version: AgentVersion, source: AgentSource) -> AgentRow | None:
        if await self._store.read(lambda c: agents.find_agent(c, version)) is None:
            return None
        return await self._store.write(
            lambda c: agents.deployed_again(
                c,
                version,
                _rules(source),
                self._clock.now(),
                origin=source.origin,
                name=source.called,
            )
        )

    async def get(
        self, ref: str | None, version: str | None = None, engine: str | None = None
    ) -> DescribedAgent:
        def read(c: Connection) -> DescribedAgent:
            found = choose(c, ref, version, engine, any_engine=engine is None)
            row = found.row
            return reply(
                DescribedAgent,
                version=row.version,
                engine=row.engine,
                name=row.name,
                agent=found.agent,
            )

        return await self._store.read(read)

    async def list(self) -> list[Agent]:
        def read(c: Connection) -> list[Agent]:
            current = deployments.list_current(c)
            return [
                reply(
                    Agent,
                    row.to_json(),
                    egress=[asdict(rule) for rule in row.egress],
                    current=[each.to_json() for each in current if each.version == row.version],
                )
                for row in agents.list_agents(c)
            ]

        return await self._store.read(read)

    async def retire(self, ref: str) -> Deployment:
        retired = await self._store.write(lambda c: deployments.retire(c, ref))
        return reply(Deployment, retired.to_json())


def choose(
    c: Connection,
    ref: str | None,
    version: str | None,
    engine: str | None,
    *,
    any_engine: bool = False,
) -> Chosen:
    """The agent that a run is started of. Raises NotFound, Conflict, Invalid."""
    if version is not None:
        known = agents.get_agent(c, version)
        if engine not in (None, known.engine):
            raise Conflict(f"{version} is for the engine {known.engine}, not for {engine}")
        return Chosen(known, known.offered(ref))
    if ref is None:
        raise Invalid("name an agent or a version")
    return deployments.choose_current(c, ref, Preference(engine, any_engine=any_engine))


def _rules(source: AgentSource) -> dict[str, Any]:
    """What a spec has that makes no other version."""
    return {
        "keep": source.keep,
        "on_divergence": source.on_divergence,
        "rules": source.rules.given,
        "webhooks": dict(source.webhooks),
    }


def _keep(
    c: Connection,
    source: AgentSource,
    version: AgentVersion,
    engine: str,
    image: str,
    deployed: engines.Deployed,
    now: float,
) -> AgentRow:
    row = agents.put_agent(
        c,
        agents.NewAgent(
            version=version,
            engine=engine,
            name=source.called,
            origin=source.origin,
            entry=source.entry,
            source=tar_of(source),
            spec={
                "dependencies": list(source.dependencies),
                "memory_mib": source.memory_mib,
                "disk_mib": source.disk_mib,
                **({"env": dict(source.env)} if source.env else {}),
                **({"egress": [dict(each) for each in source.egress]} if source.egress else {}),
                **_rules(source),
                "image": image,
                "default": deployed.loaded.default,
            },
            agents=deployed.loaded.agents,
        ),
        now,
    )
    return row if deployed.template is None else keep_template(c, version, deployed.template, now)


def _reported(row: AgentRow, *, cached: bool) -> Deployed:
    return reply(
        Deployed,
        version=row.version,
        engine=row.engine,
        agents=row.agents,
        default=row.spec.get("default"),
        boot_ms=row.boot_ms,
        template_bytes=row.template_bytes,
        cached=cached,
    )
