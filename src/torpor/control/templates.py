"""An agent's version becomes a template: a frozen machine that has loaded it.

Boot the image, send the agent's files, let the supervisor import them, freeze. Then restore the
result once: that proves that it restores, and which pages the way back touches, so that every
later restore gets them ahead.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, snapshots
from torpor.contextlog.agents import AgentRow
from torpor.control.conversation import Output
from torpor.control.guest import Guest
from torpor.control.machines import Captured, Live, Machines
from torpor.control.thaw import thaw
from torpor.control.warm import Base
from torpor.engine.memory import PageNumbers
from torpor.image.deps import check_python, ensure_deps
from torpor.model.agentfile import AgentSource
from torpor.model.errors import GuestError
from torpor.model.ids import AgentVersion, Epoch, RunId

# stage, message, fraction done or None
Progress = Callable[[str, str, float | None], None]

BOOT_LIMIT_S = 180.0
LOAD_LIMIT_S = 300.0
PREPARE_LIMIT_S = 30.0
_PRINTED_CHARS = 2000
_REHEARSAL = RunId("rehearsal")


@dataclass(frozen=True)
class Template:
    captured: Captured
    agents: list[dict[str, Any]]
    default: str | None
    boot_ms: float


async def make_template(
    machines: Machines, source: AgentSource, version: AgentVersion, progress: Progress
) -> Template:
    """Raises Invalid, GuestError (the agent does not load), HostError."""
    check_python(source.requires_python)
    deps = await asyncio.to_thread(ensure_deps, machines.home, source.dependencies, progress)
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
        loaded = await _load(live.guest, source, version, deps)
        captured = await _freeze(machines, live, progress)
    finally:
        await machines.discard(live)
    machines.warm_up(version, Base(captured.manifest, captured.link))
    return Template(captured, loaded["agents"], loaded["default"], boot_ms)


async def _load(
    guest: Guest, source: AgentSource, version: AgentVersion, deps: Path | None
) -> dict[str, Any]:
    # It booted in 1970, and what the agent does while it is imported must not be of then.
    guest.say("clock", time=time.time())
    guest.send_files(tar_of(source))
    guest.say("load", entry=source.entry, deps=deps is not None, version=version)
    answer = await guest.hear("loaded", "load_failed", "exited", within_s=LOAD_LIMIT_S)
    if answer["t"] == "loaded":
        return answer
    if answer["t"] == "load_failed":
        why, said = answer["error"], answer["traceback"]
    else:
        why, said = f"its process ended: {exit_words(answer)}", ""
    if not said:  # what it printed may tell
        printed = b"".join(item.data for item in guest.inbox if isinstance(item, Output))
        said = printed.decode(errors="replace")[-_PRINTED_CHARS:]
    raise GuestError(f"{source.entry} does not load: {why}\n{said}".rstrip())


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


def source_from(agent: AgentRow, tar: bytes) -> AgentSource:
    """The source that `tar_of` packed, of an agent that was deployed."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        members = {member.name: files.extractfile(member) for member in files}
        return AgentSource(
            entry=agent.entry,
            files={path: file.read() for path, file in members.items() if file is not None},
            dependencies=tuple(agent.spec["dependencies"]),
            memory_mib=agent.spec["memory_mib"],
            disk_mib=agent.spec["disk_mib"],
            keep=agent.spec["keep"],
            on_divergence=agent.spec["on_divergence"],
        )


def exit_words(exited: dict[str, Any]) -> str:
    """An `exited` message in words."""
    if exited["oom"]:
        return "it ran out of memory"
    if exited["signal"] is not None:
        return f"killed by {_signal_words(exited['signal'])}"
    return f"exit code {exited['code']}"


def exit_error(exited: dict[str, Any], memory_mib: int | None) -> dict[str, Any]:
    """The error of a run whose agent `exited`, in a machine of this size."""
    words = f"the agent's process ended: {exit_words(exited)}"
    if exited["oom"] and memory_mib is not None:
        words += f" (the machine has {memory_mib} MiB)"
    kind = "OutOfMemory" if exited["oom"] else "AgentExited"
    return {"type": kind, "message": words, "traceback": None}


def _signal_words(number: int) -> str:
    with contextlib.suppress(ValueError):  # a real-time signal has no name
        return signal.Signals(number).name
    return f"signal {number}"


def tar_of(source: AgentSource) -> bytes:
    """The agent's files, the same bytes for the same files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, body in sorted(source.files.items()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(body), 0o644
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()
