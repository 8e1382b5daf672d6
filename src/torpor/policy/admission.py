"""How many machines may run at once on a host.

Bounded by memory, since a machine may come to use all of its own, and by processors, since a
machine that gets too little of one only makes all slower.
"""

from __future__ import annotations

MACHINES_PER_CORE = 8
# Left for everything that is no machine.
MEMORY_RESERVE_MIB = 1024
# What QEMU needs beside the guest's memory.
OVERHEAD_MIB = 96


def machines_max(cores: int, memory_mib: int, machine_mib: int) -> int:
    """At least 1: a host too small is better slow than useless."""
    by_memory = (memory_mib - MEMORY_RESERVE_MIB) // (machine_mib + OVERHEAD_MIB)
    return max(1, min(cores * MACHINES_PER_CORE, by_memory))
