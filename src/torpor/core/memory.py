"""What torpor's own processes may keep of the host's memory, and how they give back the rest.

All that is kept to be faster has its bound here. What they take besides is Python and its
libraries, some 10 MB for each machine that is awake or ready, and what is being worked on: of
pages, some chunks, however many there are (`torpor.snapshot.pages`).

What is free is given back by the C library only where it lies at the end of its heap, and large
arrays come to lie in the middle of it, as the size from which they get memory of their own grows
with those that were freed. So that size is fixed, and now and then all free pages are returned.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from pathlib import Path

# The server: decompressed frames that new snapshots are compared with, and what a machine's pages
# are copied to before it goes on after a checkpoint.
SERVER_FRAMES_BYTES = 32 << 20
COPY_BUFFER_BYTES = 32 << 20
# Templates as plain files: pages of the kernel's, not of the server's.
FLATS_MAX = 4
# The pager: decompressed frames, and snapshots open beside those that slots use.
PAGER_FRAMES_BYTES = 128 << 20
PAGER_SNAPSHOTS_MAX = 4

# Larger pieces of memory are the kernel's again as soon as they are freed.
_OWN_BYTES = 512 << 10
# What is free and may stay at the heap's end.
_KEPT_BYTES = 4 << 20
# Grown by so much since it last gave back, a process does that again.
_GROWN_BYTES = 16 << 20
_LOOK_S = 15.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
_PAGE = os.sysconf("SC_PAGE_SIZE")


_libc = ctypes.CDLL(None)
_is_glibc = hasattr(_libc, "malloc_trim")  # the others keep less to themselves


def give_back() -> None:
    """Return all free memory to the system: some milliseconds, after something large."""
    if _is_glibc:
        _libc.malloc_trim(0)


def keep_small() -> None:
    """From now on this process keeps little memory that it does not use. To be called once, at its
    start; a thread of its own looks after it."""
    if _is_glibc:
        _libc.mallopt(_M_MMAP_THRESHOLD, _OWN_BYTES)
        _libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        threading.Thread(target=_tend, name="memory", daemon=True).start()


def _tend() -> None:
    least = 0
    while True:
        now = _private_bytes()
        if now > least + _GROWN_BYTES:
            give_back()
            least = now = _private_bytes()
        least = min(least, now)
        time.sleep(_LOOK_S)


def _private_bytes() -> int:
    """What this process has of the host's memory that is no file's."""
    _, resident, shared = Path("/proc/self/statm").read_text().split()[:3]
    return (int(resident) - int(shared)) * _PAGE
