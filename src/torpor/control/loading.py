"""From an agent's files to what they offer, and other small things that all engines share."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import math
import os
import signal
import stat
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torpor.contextlog.agents import AgentRow
from torpor.control.conversation import Conversation, Output, Silence
from torpor.model.agentfile import AgentSource
from torpor.model.errors import GuestError
from torpor.policy import inputs

log = logging.getLogger(__name__)

# stage, message, fraction done or None
Progress = Callable[[str, str, float | None], None]

_LOADING = ("importing", "loaded", "load_failed", "exited")
_PRINTED_CHARS = 2000


@dataclass(frozen=True)
class Loaded:
    """What the agent's file defines."""

    agents: list[dict[str, Any]]
    default: str | None


async def hear_loaded(
    guest: Conversation, entry: str, limit_s: float, progress: Progress
) -> Loaded:
    """Wait until `entry` is imported, at most `limit_s`. Raises GuestError if it is not, saying
    why."""
    began, what = time.monotonic(), entry
    while True:
        left_s = began + limit_s - time.monotonic()
        try:
            answer = await guest.hear(*_LOADING, within_s=max(0.0, left_s))
        except Silence as silence:
            raise GuestError(
                f"{entry} was not imported within {limit_s:g} s; it was at {what}",
                hint="What takes so long may be done once a run has begun; or give it more time, "
                f'[tool.torpor] max_import = "{math.ceil(limit_s / 30)}m".',
            ) from silence
        if answer["t"] != "importing":
            break
        what = answer["what"]
        shown = what if what.startswith(f"{entry}:") else f"{entry}: {what}"
        progress("load", f"importing {shown}, {time.monotonic() - began:.0f} s", None)
    if answer["t"] == "loaded":
        agents = [await asyncio.to_thread(inputs.usable, each) for each in answer["agents"]]
        return Loaded(agents, answer["default"])
    if answer["t"] == "load_failed":
        why, said = answer["error"], answer["traceback"]
    else:
        why, said = f"its process ended: {exit_words(answer)}", ""
    if not said:  # what it printed may tell
        printed = b"".join(item.data for item in guest.inbox if isinstance(item, Output))
        said = printed.decode(errors="replace")[-_PRINTED_CHARS:]
    raise GuestError(f"{entry} does not load: {why}\n{said}".rstrip())


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
            member.size = len(body)
            member.mode = 0o755 if path in source.executable else 0o644
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def source_from(agent: AgentRow, tar: bytes) -> AgentSource:
    """The source that `tar_of` packed, of an agent that was deployed."""
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        members = {member.name: files.extractfile(member) for member in files}
        return AgentSource(
            entry=agent.entry,
            files={path: file.read() for path, file in members.items() if file is not None},
            executable=frozenset(each.name for each in files if each.mode & stat.S_IXUSR),
            dependencies=tuple(agent.spec["dependencies"]),
            memory_mib=agent.spec["memory_mib"],
            disk_mib=agent.spec["disk_mib"],
            env=agent.spec.get("env", {}),
            keep=agent.spec["keep"],
            on_divergence=agent.spec["on_divergence"],
            rules=agent.rules,
        )


def logged(stage: str, message: str, fraction: float | None) -> None:
    """A Progress that nobody watches."""
    log.info("%s: %s", stage, message)


def host_memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
