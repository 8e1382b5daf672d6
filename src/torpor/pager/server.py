"""The pager's process: one per data directory, from lock to mount to requests to unmount.

Order at the start: lock (so that all the rest is done by one process), unmount what a killed pager
left, remove its overlays, mount, and only then the socket: who can connect finds the files there.
At the end: no more requests, the requests in progress end while FUSE is still served (a push may
wait for a page that a reader has locked), readers that wait for a bind are refused, unmount.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyfuse3
import trio

from torpor.core.errors import HostError, Invalid
from torpor.core.home import Home
from torpor.pager.content import Contents
from torpor.pager.control import Control
from torpor.pager.files import Files
from torpor.pager.slots import Slots

log = logging.getLogger(__name__)

# With the guest's memory not in huge pages, a fault reads one frame of a layer.
READAHEAD_KB = 64
# Requests served at once. Each that waits for a bind keeps one task.
FUSE_TASKS_MAX = 1000
STOP_SECONDS_MAX = 5.0
_CONNECTIONS_WAITING = 64


def run(home: Home, *, cache_bytes: int) -> int:
    """Serve until SIGTERM, SIGINT, a shutdown request or an unmount. Returns the exit status.

    When another pager serves this directory already, that is success.
    """
    os.umask(0o077)
    home.create()
    with (home.run / "pager.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another pager serves %s already", home.root)
            return 0
        _clear(home)
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a snapshot has files open
        slots = Slots(home.machines)
        files = Files(slots, home.mount)
        try:
            pyfuse3.init(files, str(home.mount), {*pyfuse3.default_options, "fsname=torpor"})
        except RuntimeError as error:
            log.error("cannot mount %s: %s", home.mount, error)
            return 1
        try:
            trio.run(_serve, home, slots, files, Contents(home, cache_bytes))
        finally:
            pyfuse3.close()
            home.socket("pager").unlink(missing_ok=True)
    return 0


def _clear(home: Home) -> None:
    """Remove what a pager that was killed left. Its machines are dead: nobody needs its files."""
    while device_of(home.mount):
        # Lazily: a process that still has a file open would else keep the mount.
        subprocess.run(["fusermount3", "-u", "-z", str(home.mount)], check=True)
    home.mount.mkdir(exist_ok=True)
    home.socket("pager").unlink(missing_ok=True)
    for overlay in home.machines.glob("*/disk.overlay"):
        overlay.unlink()


def device_of(mount: Path) -> str | None:
    """The number (major:minor) of the file system mounted there, None if nothing is. Does not touch
    the mount: it may be stale, or served by the thread that asks."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        device, _, point = line.split(" ")[2:5]
        if re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), point) == str(mount):
            return device
    return None


def set_readahead(mount: Path, kb: int) -> None:
    """For files that are opened after this. Raises Invalid, HostError."""
    if not 0 <= kb <= 1024:
        raise Invalid(f"read-ahead of {kb} KiB: 0 to 1024 are taken")
    try:
        Path(f"/sys/class/bdi/{device_of(mount)}/read_ahead_kb").write_text(str(kb))
    except OSError as error:
        raise HostError(
            f"cannot set the read-ahead of {mount}: {error.strerror}",
            hint="Only root may. Without it, reads are up to twice as large as asked for.",
        ) from error


def _raise_background(mount: Path) -> None:
    """Let more reads be under way at once. Raises HostError.

    The kernel sends at most 12 with read-ahead until one is answered, on the whole mount: as many
    readers of slots that are not bound would hold up all machines. Engines do not read before the
    bind, so this is only there for a stray `cat`.
    """
    minor = str(device_of(mount)).partition(":")[2]
    try:
        Path(f"/sys/fs/fuse/connections/{minor}/max_background").write_text(str(FUSE_TASKS_MAX))
    except OSError as error:
        raise HostError(f"cannot raise the kernel's limit of reads: {error.strerror}") from error


async def _serve(home: Home, slots: Slots, files: Files, contents: Contents) -> None:
    for tune in (lambda mount: set_readahead(mount, READAHEAD_KB), _raise_background):
        try:
            tune(home.mount)
        except HostError as error:
            log.info("%s", error)
    async with trio.open_nursery() as fuse:
        async with trio.open_nursery() as requests:
            stop = requests.cancel_scope.cancel
            fuse.start_soon(_serve_files, stop)
            requests.start_soon(_stop_on_signal, stop)
            control = Control(
                slots,
                files,
                contents,
                mount=home.mount,
                stop=stop,
                readahead=lambda kb: set_readahead(home.mount, kb),
            )
            await trio.serve_listeners(control.serve, [await _listen(home.socket("pager"))])
        for slot in slots:
            slots.drop(slot.name)
        pyfuse3.terminate()
        fuse.cancel_scope.deadline = trio.current_time() + STOP_SECONDS_MAX


async def _serve_files(stop: Callable[[], None]) -> None:
    await pyfuse3.main(min_tasks=2, max_tasks=FUSE_TASKS_MAX)
    stop()  # somebody unmounted it


async def _stop_on_signal(stop: Callable[[], None]) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            log.info("ending on signal %d", number)
            stop()
            return


async def _listen(path: Path) -> trio.SocketListener:
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await sock.bind(str(path))
    path.chmod(0o600)
    sock.listen(_CONNECTIONS_WAITING)
    return trio.SocketListener(sock)
