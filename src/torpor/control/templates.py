"""An agent's version becomes a template: a frozen machine that has loaded it.

Boot the image, send the agent's files, let the supervisor import them, freeze. Then restore the
result once: that proves that it restores, and which pages the way back touches, so that every
later restore gets them ahead.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from torpor.contextlog import agents, snapshots
from torpor.contextlog.agents import AgentRow
from torpor.control.guest import Guest
from torpor.control.loading import Loaded, Progress, hear_loaded, tar_of
from torpor.control.machines import Captured, Live, Machines
from torpor.control.thaw import thaw
from torpor.control.warm import Base
from torpor.engine.memory import PageNumbers
from torpor.image import recipe
from torpor.image.deps import check_python, ensure_deps, may_import_torpor
from torpor.model.agentfile import AgentSource, no_agent
from torpor.model.defining import may_define_agents
from torpor.model.errors import GuestError
from torpor.model.ids import AgentVersion, Epoch, RunId

BOOT_LIMIT_S = 180.0
PREPARE_LIMIT_S = 30.0
_REHEARSAL = RunId("rehearsal")


@dataclass(frozen=True)
class Template:
    captured: Captured
    loaded: Loaded
    boot_ms: float


async def make_template(
    machines: Machines, source: AgentSource, version: AgentVersion, progress: Progress
) -> Template:
    """Raises Invalid, GuestError (the agent does not load), HostError."""
    check_python(source.requires_python, recipe.PYTHON_VERSION, "machines have")
    deps = await asyncio.to_thread(ensure_deps, machines.home, source.dependencies, progress)
    if not may_define_agents(source.files) and not (deps and may_import_torpor(deps)):
        raise no_agent(source.entry)
    shape = machines.shape(
        memory_mib=source.memory_mib,
        disk_mib=source.disk_mib,
        deps=deps.parent.name if deps is not None else "",
    )
    started = time.perf_counter()
    progress("boot", "booting a machine", None)
    live = await machines.boot(shape)
    try:
        hello = await live.guest.hear("hello", within_s=BOOT_LIMIT_S)
        boot_ms = (time.perf_counter() - started) * 1000
        progress("load", f"importing {source.entry} (Python {hello['python']})", None)
        loaded = await _load(live.guest, source, version, deps, progress)
        captured = await _freeze(machines, live, progress)
    finally:
        await machines.discard(live)
    machines.warm_up(version, Base(captured.manifest, captured.link))
    return Template(captured, loaded, boot_ms)


async def _load(
    guest: Guest, source: AgentSource, version: AgentVersion, deps: Path | None, progress: Progress
) -> Loaded:
    # It booted in 1970, and what the agent does while it is imported must not be of then.
    guest.say("clock", time=time.time())
    await guest.send_files(tar_of(source))
    said = {"entry": source.entry, "deps": deps is not None, "version": version}
    guest.say("load", **said, env=dict(source.env))
    return await hear_loaded(guest, source.entry, source.rules.max_import_s, progress)


async def _freeze(machines: Machines, live: Live, progress: Progress) -> Captured:
    progress("freeze", "freezing it as a template", None)
    live.guest.say("prepare")
    answer = await live.guest.hear("prepared", "unprepared", within_s=PREPARE_LIMIT_S)
    if answer["t"] != "prepared":
        raise GuestError(f"the machine could not prepare to be frozen: {answer['reason']}")
    async with machines.capturing(live) as taken:
        draft = await machines.keep(live, taken)
        progress("rehearse", "restoring it once, to learn what that touches", None)
        hot = await _rehearse(machines, draft)
        # Once more from nothing: now the pages that a restore pushes lie side by side.
        live.snapshot = None
        await asyncio.to_thread(machines.delete_alone, draft)
        return await machines.keep(live, taken, hot)


async def _rehearse(machines: Machines, captured: Captured) -> PageNumbers:
    live = await machines.rehearse(captured.manifest, captured.link)
    try:
        await thaw(live.guest, _REHEARSAL, Epoch(1), started=False, journal=[])
        await machines.learn_faults(live)
    finally:
        await machines.discard(live)
    assert live.faults is not None
    return live.faults


def keep_template(c: Connection, version: AgentVersion, template: Template) -> AgentRow:
    """Record a template that is durable as the one of `version`, which was put before."""
    captured = template.captured
    snapshot = snapshots.record_snapshot(
        c,
        version=version,
        manifest=captured.manifest,
        bytes=captured.bytes,
        pause_ms=captured.pause_ms,
        freeze_ms=captured.pause_ms + captured.store_ms,
        now=time.time(),
        link=captured.link.to_json(),
        detail={"pages": captured.pages},
    )
    return agents.set_template(
        c, version, snapshot.id, boot_ms=template.boot_ms, template_bytes=captured.bytes
    )
