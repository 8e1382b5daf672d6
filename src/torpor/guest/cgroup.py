"""The control group that stands still: the agent's own below it, with a memory limit, and the
gateway's. Freezing stops every process in both, or in the agent's alone where the gateway has done
nothing: it sleeps then, and stopping it would change pages of the kernel's, in every snapshot.

See https://docs.kernel.org/admin-guide/cgroup-v2.html, "cgroup.freeze" and "memory.events".
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path

# What is left to the supervisor and the kernel when the agent has used up all that it may.
RESERVE_BYTES = 64 * 1024 * 1024
PIDS_MAX = 4096


class Cgroup:
    def __init__(self, path: Path) -> None:
        self._path, self._agent, self._gateway = path, path / "agent", path / "gateway"
        for each in (path, self._agent, self._gateway):
            each.mkdir(exist_ok=True)
        # Open for good: opening them again would make each thaw longer.
        self._freezers = {
            each: os.open(each / "cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
            for each in (path, self._agent)
        }

    def limit(self) -> None:
        """Keep the agent from taking the whole machine down with it."""
        for above in (self._path.parent, self._path):
            (above / "cgroup.subtree_control").write_text("+memory +pids")
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        (self._agent / "memory.max").write_text(str(total - RESERVE_BYTES))
        (self._agent / "pids.max").write_text(str(PIDS_MAX))

    def enter(self) -> None:
        """Move the calling process in: it is the agent's."""
        (self._agent / "cgroup.procs").write_text("0")

    def enter_gateway(self) -> None:
        (self._gateway / "cgroup.procs").write_text("0")

    def freeze(self, within_s: float, *, gateway: bool = False) -> bool:
        """Stop every process of the agent's, or in all of it; False, and nothing is stopped, when
        one cannot be."""
        group = self._path if gateway else self._agent
        os.pwrite(self._freezers[group], b"1", 0)
        deadline = time.monotonic() + within_s
        events = os.open(group / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
        try:
            poll = select.poll()
            poll.register(events, select.POLLPRI)  # the kernel's word that the file changed
            while b"frozen 1" not in os.pread(events, 4096, 0):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    self.thaw()
                    return False
                poll.poll(left_s * 1000)
        finally:
            os.close(events)
        return True

    def thaw(self) -> None:
        for freezer in self._freezers.values():
            os.pwrite(freezer, b"0", 0)

    def close(self) -> None:
        for freezer in self._freezers.values():
            os.close(freezer)

    @property
    def killed_by_memory(self) -> bool:
        """The kernel has killed a process in it for want of memory."""
        try:
            events = (self._agent / "memory.events").read_text().split()
        except FileNotFoundError:  # without the memory controller
            return False
        return int(events[events.index("oom_kill") + 1]) > 0
