"""What is free is given back, also from the middle of the heap."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Frames as the caches hold them, some of which stay: the heap cannot shrink at its end.
PROGRAM = """
from torpor.core import memory
memory.keep_small()
before = memory._private_bytes()
frames = [bytes([n % 256]) * 65536 for n in range(3200)]
full = memory._private_bytes()
frames = frames[::100]
memory.give_back()
print(full - before, memory._private_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_free_memory_is_given_back() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    full, left = map(int, said.stdout.split())
    assert full > 200 << 20
    assert left < 32 << 20
