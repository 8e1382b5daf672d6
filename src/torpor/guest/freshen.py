"""Entropy and time after a thaw (rule 8): a restored kernel would otherwise repeat both."""

from __future__ import annotations

import fcntl
import functools
import os
import struct
import time

_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207


@functools.cache
def _generator() -> int:
    """A descriptor of the kernel's generator, opened long before a thaw needs it."""
    return os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)


def freshen_kernel(entropy: bytes, now_s: float) -> None:
    """Give the kernel's generator `entropy`, have it used at once, and set the clock."""
    # struct rand_pool_info: entropy in bits, size in bytes, the bytes
    pool = struct.pack("ii", len(entropy) * 8, len(entropy)) + entropy
    fcntl.ioctl(_generator(), _RNDADDENTROPY, pool)
    fcntl.ioctl(_generator(), _RNDRESEEDCRNG)
    set_clock(now_s)


def set_clock(now_s: float) -> None:
    time.clock_settime(time.CLOCK_REALTIME, now_s)
