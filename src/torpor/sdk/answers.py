"""Whether a thread waits on a connection on which the answer of a recorded call may come.

These are the connections to the gateway: its own address, for the deployment's model, and those
that it gives the names which the agent may reach. Looked up in what the kernel says of the thread's
system call, of its process's descriptors, and of the machine's connections: so it holds for
whatever library, and for child processes.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections.abc import Iterator, Sequence

from torpor.wire.wayout import MODEL_PORT

_LOOPBACK = 0x7F000001
_NAMED = (0xC6120000, 0xFFFE0000)  # 198.18.0.0/15
_CONNECTIONS = "/proc/net/tcp"
_POLLED = struct.Struct("iHH")  # struct pollfd
_FDS_MAX = 1024  # looked at


def may_come(task: str, kind: str, arguments: Sequence[int]) -> bool:
    """Whether the thread, in a call of this `kind` (`torpor.sdk.rest`), waits for one."""
    fds = _WAITED.get(kind)
    if fds is None or len(arguments) < 2:
        return False
    with contextlib.suppress(OSError, struct.error, OverflowError, ValueError):
        named = {_link(task, fd) for fd in fds(task, arguments)}
        return not named.isdisjoint(_gateways())
    return False


def _polled(task: str, arguments: Sequence[int]) -> Iterator[int]:
    address, count = arguments[0], min(arguments[1], _FDS_MAX)
    for fd, events, _ in _POLLED.iter_unpack(_memory(task, address, count * _POLLED.size)):
        if events:
            yield fd


def _selected(task: str, arguments: Sequence[int]) -> Iterator[int]:
    """Those that are to be readable."""
    count, address = min(arguments[0], _FDS_MAX), arguments[1]
    if address:
        bits = int.from_bytes(_memory(task, address, (count + 7) // 8), "little")
        yield from (fd for fd in range(count) if bits >> fd & 1)


_WAITED = {"poll": _polled, "select": _selected}


def _memory(task: str, address: int, size: int) -> bytes:
    fd = os.open(f"{task}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, size, address)
    finally:
        os.close(fd)


def _link(task: str, fd: int) -> str:
    try:
        return os.readlink(f"{task}/fd/{fd}")  # noqa: PTH115 -- as quick as can be
    except OSError:
        return ""


def _gateways() -> Iterator[str]:
    """What descriptors of connections to it are called."""
    with open(_CONNECTIONS, "rb") as file:  # noqa: PTH123
        for line in file.read().splitlines()[1:]:
            words = line.split()
            address, _, port = words[2].partition(b":")
            remote = int.from_bytes(bytes.fromhex(address.decode()), sys.byteorder)
            network, mask = _NAMED
            if remote & mask == network or (remote, int(port, 16)) == (_LOOPBACK, MODEL_PORT):
                yield f"socket:[{words[9].decode()}]"
