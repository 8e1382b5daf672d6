"""CPU time of another process."""

from __future__ import annotations

import contextlib
import time


def cpu_s(pid: int) -> float:
    """What the process has used, in seconds; 0 where the host does not tell."""
    # Its CPU-time clock: clock_getcpuclockid(3) of Linux, CPUCLOCK_SCHED.
    with contextlib.suppress(OSError):
        return time.clock_gettime((~pid << 3) | 2)
    return 0.0
