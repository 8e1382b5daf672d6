"""Deploying agents: from a source to a version that can be run, and forgetting what is deployed.

    source ── version known? ── yes ──► current again, at once
                     └── no ──► loaded on its engine, a template made ──► kept, current

One deployment of a version is under way at a time; the others wait for it and find it done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, deployments
from torpor.contextlog.agents import AgentRow
from torpor.control.engines import Engines
from torpor.core.agentfile import AgentSource, no_agent
from torpor.core.defining import may_define_agents
from torpor.core.engines import PROCESS
from torpor.core.ids import AgentVersion
from torpor.image.deps import deps_are_here, ensure_deps
from torpor.logstore.sqlite import LogStore
from torpor.worker.loading import Loaded, Progress, tar_of
from torpor.worker.templates import Template, keep_template


class Deploying:
    def __init__(self, store: LogStore, engines: Engines) -> None:
        self._store, self._engines = store, engines
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

        if (engine or source.rules.engine or self._engines.choice.engine) == PROCESS:
            return await self._deploy_process(source, told)
        machines = await self._engines.machines(told)
        image = machines.image.digest
        version = source.version(image)
        async with self._under_way.setdefault(version, asyncio.Lock()):
            known = await self._deployed_before(version, source)
            if known is not None and known.template is not None:
                if not deps_are_here(machines.home, source.dependencies):
                    await asyncio.to_thread(ensure_deps, machines.home, source.dependencies, told)
                return _deployed(known, cached=True)
            template = await self._engines.templates.make(source, version, told)
            row = await self._store.write(
                lambda c: _keep_with_template(c, source, version, image, template)
            )
        return _deployed(row, cached=False)

    async def _deploy_process(self, source: AgentSource, told: Progress) -> dict[str, Any]:
        processes = await self._engines.processes()
        version = source.version(PROCESS)
        async with self._under_way.setdefault(version, asyncio.Lock()):
            known = await self._deployed_before(version, source)
            if known is not None:
                return _deployed(known, cached=True)
            loaded = await processes.load(source, version, told)
            row = await self._store.write(
                lambda c: _keep_agent(c, source, version, PROCESS, loaded)
            )
        return _deployed(row, cached=False)

    async def _deployed_before(self, version: AgentVersion, source: AgentSource) -> AgentRow | None:
        if await self._store.read(lambda c: agents.find_agent(c, version)) is None:
            return None
        return await self._store.write(
            lambda c: agents.deployed_again(
                c,
                version,
                _rules(source),
                time.time(),
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


def _keep_agent(
    c: Connection, source: AgentSource, version: AgentVersion, image: str, loaded: Loaded
) -> AgentRow:
    return agents.put_agent(
        c,
        version=version,
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
            "default": loaded.default,
        },
        now=time.time(),
        agents=loaded.agents,
    )


def _keep_with_template(
    c: Connection, source: AgentSource, version: AgentVersion, image: str, template: Template
) -> AgentRow:
    _keep_agent(c, source, version, image, template.loaded)
    return keep_template(c, version, template)


def _deployed(row: AgentRow, *, cached: bool) -> dict[str, Any]:
    return {
        "version": row.version,
        "engine": row.engine,
        "agents": row.agents,
        "default": row.spec.get("default"),
        "boot_ms": row.boot_ms,
        "template_bytes": row.template_bytes,
        "cached": cached,
    }
