"""What a process does before it is frozen."""

from __future__ import annotations

import os
from pathlib import Path

from torpor.sdk import freezing

PIECE, COUNT = 2048, 20_000  # larger than what Python keeps in pools of its own


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_memory_that_is_free_goes_back_to_the_kernel() -> None:
    freezing.before_freeze()
    pieces = [bytes(PIECE + n % 2) for n in range(COUNT)]
    held = resident_bytes()
    last = pieces.pop()  # keeps the end of the heap where it is
    pieces.clear()
    freezing.before_freeze()
    assert held - resident_bytes() > PIECE * COUNT // 2
    assert last
