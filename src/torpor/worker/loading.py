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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torpor.contextlog.agents import AgentRow
from torpor.core.agentfile import AgentSource
from torpor.core.clock import Clock
from torpor.core.errors import GuestError
from torpor.core.sizes import MEMORY_MIB_MAX
from torpor.machines.channel import Channel, Output, Silence
from torpor.policy import inputs
from torpor.wire import names

log = logging.getLogger(__name__)

# stage, message, fraction done or None
Progress = Callable[[str, str, float | None], None]

_LOADING = (names.IMPORTING, names.LOAD_FAILED, names.EXITED)
_PRINTED_CHARS = 2000


@dataclass(frozen=True)
class Loaded:
    """What the agent's file defines."""

    agents: list[dict[str, Any]]
    default: str | None


class Importing:
    """An import of `entry` that has begun: how long it may take in all, and who watches."""

    def __init__(self, entry: str, limit_s: float, progress: Progress, clock: Clock) -> None:
        self.entry = entry
        self._clock = clock
        self._limit_s, self._progress = limit_s, progress
        self._began = self._clock.monotonic()

    @property
    def took_s(self) -> float:
        return self._clock.monotonic() - self._began

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """It stands still, and this time does not count."""
        since = self._clock.monotonic()
        yield
        self._began += self._clock.monotonic() - since

    async def hear(self, guest: Channel, *types: str) -> dict[str, Any]:
        """The first message of one of `types`, or that it failed. Raises GuestError if it takes too
        long, saying where it is."""
        what = self.entry
        while True:
            left_s = self._limit_s - self.took_s
            try:
                answer = await guest.hear(*types, *_LOADING, within_s=max(0.0, left_s))
            except Silence as silence:
                raise GuestError(
                    f"importing {self.entry} took longer than {self._limit_s:g} s; "
                    f"it was at {what}",
                    hint="Do the slow part after a run has begun, or allow more time: "
                    f'[tool.torpor] max_import = "{math.ceil(self._limit_s / 30)}m".',
                ) from silence
            if answer["t"] != names.IMPORTING:
                return answer
            what = answer["what"]
            shown = what if what.startswith(f"{self.entry}:") else f"{self.entry}: {what}"
            self._progress("load", f"importing {shown}, {self.took_s:.0f} s", None)


async def hear_loaded(guest: Channel, importing: Importing) -> Loaded:
    """As `loaded`, and what the agent's file defines."""
    answer = await loaded(guest, importing)
    agents = [await asyncio.to_thread(inputs.usable, each) for each in answer["agents"]]
    return Loaded(agents, answer["default"])


async def loaded(guest: Channel, importing: Importing) -> dict[str, Any]:
    """Wait until all is imported. Raises GuestError if it is not, saying why."""
    answer, entry = await importing.hear(guest, names.LOADED), importing.entry
    if answer["t"] == names.LOADED:
        return answer
    if answer["t"] == names.LOAD_FAILED:
        why, detail = answer["error"], answer["traceback"]
    else:
        why, detail = f"its process ended: {exit_words(answer)}", ""
    if not detail:  # what it printed may tell
        printed = b"".join(item.data for item in guest.inbox if isinstance(item, Output))
        detail = printed.decode(errors="replace")[-_PRINTED_CHARS:]
    raise GuestError(f"{entry} does not load: {why}\n{detail}".rstrip())


def exit_words(exited: Mapping[str, Any]) -> str:
    """An `exited` message in words."""
    if exited["oom"]:
        return "it ran out of memory"
    if exited["signal"] is not None:
        return f"killed by {_signal_words(exited['signal'])}"
    return f"exit code {exited['code']}"


def exit_error(exited: Mapping[str, Any], memory_mib: int | None) -> dict[str, Any]:
    """The error of a run whose agent `exited`, in a machine of this size."""
    words = f"the agent's process ended: {exit_words(exited)}"
    if exited["oom"] and memory_mib is not None:
        larger = min(2 * memory_mib, MEMORY_MIB_MAX)
        hint = f'; memory = "{larger}M" in [tool.torpor] gives it more'
        words += f" (the machine has {memory_mib} MiB{hint if larger > memory_mib else ''})"
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
            egress=tuple(agent.spec.get("egress", ())),
            keep=agent.spec["keep"],
            on_divergence=agent.spec["on_divergence"],
            rules=agent.rules,
        )


def logged(stage: str, message: str, fraction: float | None) -> None:
    """A Progress that nobody watches."""
    log.info("%s: %s", stage, message)


def host_memory_mib() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
