"""Real pagers on real mounts, and snapshots made from bytes."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torpor.blobs.local import LocalBlobs
from torpor.core.errors import Missing
from torpor.core.home import Home
from torpor.pager.client import PagerClient
from torpor.pager.launch import ensure_pager, require_fuse
from torpor.snapshot.build import Changed, build
from torpor.snapshot.layer import PAGE
from torpor.snapshot.store import SnapshotStore

DEADLINE_S = 20.0
# These import what runs in the pager, which needs the binding of FUSE; other tests start one.
NEED_BINDING = ["test_pager_control.py", "test_pager_process.py", "test_pager_sealed.py"]
collect_ignore = [] if importlib.util.find_spec("pyfuse3") else NEED_BINDING


class Reading(threading.Thread):
    """Somebody who reads a whole file with one call."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._fd = os.open(path, os.O_RDWR)
        self.got: bytes | OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            self.got = os.pread(self._fd, os.fstat(self._fd).st_size, 0)
        except OSError as error:
            self.got = error
        os.close(self._fd)

    def wait_until_blocked(self) -> None:
        # While a thread is in a call that waits, this file has the call and its arguments.
        call = Path(f"/proc/self/task/{self.native_id}/syscall")
        wait_until(lambda: f" {self._fd:#x} " in call.read_text(), "waiting in its read")

    def result(self) -> bytes | OSError | None:
        self.join()
        return self.got


class Pager:
    """A data directory and the pager that serves it, from the outside."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.store = SnapshotStore(
            LocalBlobs(home.blobs), lambda digest: home.images / digest / "root.erofs"
        )

    def start(self) -> int:
        """Start it unless it runs; its process id."""

        async def start() -> int:
            client = await ensure_pager(self.home)
            pid: int = (await client.ping())["pid"]
            await client.close()
            return pid

        return asyncio.run(start())

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """What a method of PagerClient returns, on a connection of its own."""

        async def ask() -> Any:
            client = PagerClient(self.home.socket("pager"))
            try:
                return await getattr(client, operation)(*args, **kwargs)
            finally:
                await client.close()

        return asyncio.run(ask())

    def snapshot(self, memory: bytes, disk: bytes = b"", hot: tuple[int, ...] = ()) -> str:
        """Store a snapshot with this content; its digest."""
        regions = {"memory": memory} | ({"disk": disk} if disk else {})
        built = build(
            None,
            None,
            {name: _whole(data) for name, data in regions.items()},
            hot=np.array(hot, np.uint32),
            facts={},
            dedup=None,
        )
        return self.store.put(built).manifest_digest

    def slot(
        self, name: str, memory: bytes, disk: bytes = b"", *, hot: tuple[int, ...] = ()
    ) -> None:
        """A slot that is bound to a snapshot with this content."""
        self.ask("create", name, len(memory), len(disk))
        self.ask("bind", name, self.snapshot(memory, disk, hot), hot=bool(hot))

    def path(self, slot: str, file: str = "memory") -> Path:
        return self.home.mount / slot / file

    def reading(self, slot: str) -> Reading:
        """Somebody who reads the memory of a slot and has to wait for it."""
        reading = Reading(self.path(slot))
        reading.wait_until_blocked()
        return reading

    def stop(self) -> None:
        """End it if it runs, and wait until it has ended."""
        try:
            pid = self.ask("ping")["pid"]
        except Missing:
            return
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.alive(pid), "ended")

    @staticmethod
    def alive(pid: int) -> bool:
        """A process that ended and was not waited for yet does not count."""
        try:
            return Pager.state(pid) != "Z"
        except FileNotFoundError:
            return False

    @staticmethod
    def state(pid: int) -> str:
        """As ps shows it: R running, S sleeping, D waiting for a device, Z ended, …"""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _whole(data: bytes) -> Changed:
    pages = np.frombuffer(data, np.uint8).reshape(-1, PAGE)
    return Changed.at_hand(len(data), np.arange(len(pages)), pages)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"not {what} after {DEADLINE_S} s"
        time.sleep(0.002)


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], bool], str], None]:
    return wait_until


@pytest.fixture
def idle_pager() -> Iterator[Pager]:
    """A pager that was not started yet, for tests of its process."""
    yield from _pager()


@pytest.fixture(scope="package")
def pager() -> Iterator[Pager]:
    """A running pager that tests share: each uses slots of its own."""
    for served in _pager():
        served.start()
        yield served


def _pager() -> Iterator[Pager]:
    try:
        require_fuse()
    except Missing as error:
        pytest.skip(error.message)
    # Not tmp_path: the path of a Unix socket may be 107 bytes long.
    root = Path(tempfile.mkdtemp(prefix="pager-"))
    served = Pager(Home(root).create())
    try:
        yield served
    finally:
        served.stop()
        shutil.rmtree(root)
