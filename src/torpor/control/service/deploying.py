"""Deploying agents: from a source to a version that can be run, and forgetting what is deployed.

    source ── version known? ── yes ──► current again, at once
                     └── no ──► loaded on its engine, a template made ──► kept, current

A version whose template does not serve here, as after an upgrade of the host, gets another.
One deployment of a version is under way at a time; the others wait for it and find it done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, deployments
from torpor.contextlog.agents import AgentRow
from torpor.control.engines import Deployed, Engines
from torpor.core.agentfile import AgentSource, no_agent
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.defining import may_define_agents
from torpor.core.ids import AgentVersion
from torpor.engine import registry
from torpor.logstore.protocol import Store
from torpor.worker.loading import tar_of
from torpor.worker.templates import keep_template


class Deploying:
    def __init__(self, store: Store, engines: Engines, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._engines, self._clock = store, engines, clock
        self._under_way: dict[AgentVersion, asyncio.Lock] = {}

    async def deploy(
        self,
        source: AgentSource,
        progress: Callable[[str, str, float | None], None],
        engine: str | None = None,
    ) -> dict[str, Any]:
        """The agent's version for `engine`, by default its file's, else the server's, ready to be
        run: as it is here, or made now.

        Raises Invalid, GuestError (it does not load), HostError."""
        if not source.dependencies and not may_define_agents(source.files):
            raise no_agent(source.entry)
        loop = asyncio.get_running_loop()

        def told(stage: str, message: str, fraction: float | None) -> None:
            loop.call_soon_threadsafe(progress, stage, message, fraction)

        entry = registry.get(engine or source.rules.engine or self._engines.choice.engine)
        ready = await self._engines.ready(entry.name, told)
        version = source.version(entry.base_of(ready.image))
        async with self._under_way.setdefault(version, asyncio.Lock()):
            known = await self._deployed_before(version, source)
            if known is not None and await ready.has(known, source, told):
                return _reported(known, cached=True)
            deployed = await ready.deploy(source, version, told)
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

    async def agents(self) -> list[dict[str, Any]]:
        """All versions, each with what it is current as."""

        def read(c: Connection) -> list[dict[str, Any]]:
            current = deployments.list_current(c)
            return [
                row.to_json()
                | {"current": [each.to_json() for each in current if each.version == row.version]}
                for row in agents.list_agents(c)
            ]

        return await self._store.read(read)

    async def retire(self, ref: str) -> dict[str, Any]:
        """Forget that an agent is deployed. Raises NotFound, Conflict."""
        return (await self._store.write(lambda c: deployments.retire(c, ref))).to_json()


def _rules(source: AgentSource) -> dict[str, Any]:
    """What a spec has that makes no other version."""
    told = {"keep": source.keep, "on_divergence": source.on_divergence}
    return {**told, "rules": source.rules.given, "webhooks": dict(source.webhooks)}


def _keep(
    c: Connection,
    source: AgentSource,
    version: AgentVersion,
    engine: str,
    image: str,
    deployed: Deployed,
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
                **_rules(source),
                "image": image,
                "default": deployed.loaded.default,
            },
            agents=deployed.loaded.agents,
        ),
        now,
    )
    return row if deployed.template is None else keep_template(c, version, deployed.template, now)


def _reported(row: AgentRow, *, cached: bool) -> dict[str, Any]:
    return {
        "version": row.version,
        "engine": row.engine,
        "agents": row.agents,
        "default": row.spec.get("default"),
        "boot_ms": row.boot_ms,
        "template_bytes": row.template_bytes,
        "cached": cached,
    }
