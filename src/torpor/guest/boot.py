"""What the first process of a machine sets up before it can work.

/proc, /sys and /dev are mounted by the initramfs. Everything here is done once, at the boot that
the template is made of, and is frozen with it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path

PORT_NAME = "torpor"
_PORTS = Path("/sys/class/virtio-ports")
_MS_NOSUID, _MS_NODEV = 2, 4
# (source, where, type, options)
_MOUNTS = (
    ("tmpfs", "/run", "tmpfs", "mode=755"),
    ("tmpfs", "/dev/shm", "tmpfs", "mode=1777"),
    ("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666"),
    ("cgroup2", "/sys/fs/cgroup", "cgroup2", ""),
)

# A machine wakes with all its timers due. What the kernel would then do for its own sake comes
# before the agent, and costs an emulated processor as much as all the rest of the thaw: writing
# dirty pages to a disk whose only durable copy is the snapshot, which has the pages anyway, and
# keeping statistics. (Pages are still written when dirty ones take a tenth of memory.)
_SETTINGS = (
    ("proc/sys/vm/dirty_writeback_centisecs", "0"),
    # A disk's share of the memory for dirty pages starts at nothing and grows by writing.
    ("sys/block/vdb/bdi/min_ratio", "90"),
    ("proc/sys/vm/stat_interval", "3600"),
    # In one of its own, the agent would be root towards much of the kernel.
    ("proc/sys/user/max_user_namespaces", "0"),
)


def prepare_machine() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for source, where, kind, options in _MOUNTS:
        Path(where).mkdir(parents=True, exist_ok=True)
        if os.path.ismount(where):
            continue
        arguments = (source.encode(), where.encode(), kind.encode())
        if libc.mount(*arguments, _MS_NOSUID | _MS_NODEV, options.encode()) != 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot mount {kind}: {os.strerror(error)}", where)
    for pattern, value in _SETTINGS:
        for path in Path("/").glob(pattern):
            path.write_text(value)
    socket.sethostname("torpor")


def open_port(within_s: float = 20.0) -> int:
    """The virtio port named `torpor`, which its driver may not have found yet."""
    deadline = time.monotonic() + within_s
    while True:
        for name in _PORTS.glob("*/name"):
            if name.read_text().strip() == PORT_NAME:
                return os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"no virtio port named {PORT_NAME!r} in {_PORTS}")
        time.sleep(0.05)
