"""Start and stop the broker of a data directory.

The broker gets this process's environment, secrets and all; it outlives this process, and is
shared by whoever uses the directory. Which upstream it has was decided when it started.

Two locks: the broker holds `run/broker.lock` as long as it lives; what starts or stops one holds
`run/broker.launch.lock` meanwhile. Without the second, one that lost the race to start could
still be on its way up when the winner is stopped, and stay.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

from torpor.core.errors import HostError
from torpor.core.home import Home
from torpor.egress.connection import Connection

BROKER_START_S = 30
BROKER_POLL_S = 0.03
_LOG_TAIL_BYTES = 1000


async def ensure_broker(home: Home) -> Connection:
    """A connection to the broker that serves `home`, started if none did. Raises HostError."""
    path = home.create().socket("broker")
    connection = await _answering(path)
    if connection is None:
        async with _launching(home):
            connection = await _answering(path)
            if connection is None:
                connection = await _wait_ready(path, _spawn(home), home)
    return connection


async def stop_broker(home: Home) -> None:
    """End the broker of `home` gracefully, if there is one, and wait until it has ended."""
    path = home.create().socket("broker")
    async with _launching(home):
        connection = await _answering(path)
        if connection is None:
            return
        connection.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(connection.pid, signal.SIGTERM)
        async with _locked(home.run / "broker.lock"):
            pass  # free: it has ended


def _launching(home: Home) -> contextlib.AbstractAsyncContextManager[None]:
    return _locked(home.run / "broker.launch.lock")


@contextlib.asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    with path.open("ab") as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        yield


async def _answering(path: Path) -> Connection | None:
    try:
        return await Connection.open(path)
    except HostError:  # none there, or one that is just being killed
        return None


def _spawn(home: Home) -> subprocess.Popen[bytes]:
    log = os.open(home.run / "broker.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "torpor.egress", "--home", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)
    # Reaps it whenever it ends; it may well outlive us.
    threading.Thread(target=process.wait, name="broker-reaper", daemon=True).start()
    return process


async def _wait_ready(path: Path, process: subprocess.Popen[bytes], home: Home) -> Connection:
    try:
        async with asyncio.timeout(BROKER_START_S):
            while (connection := await _answering(path)) is None:
                if process.poll():
                    raise _not_started(home, f"it ended with code {process.returncode}")
                if process.poll() == 0:
                    # Another had the lock and does not answer: it was being killed.
                    process = _spawn(home)
                await asyncio.sleep(BROKER_POLL_S)
            return connection
    except TimeoutError as error:
        raise _not_started(home, f"it does not answer after {BROKER_START_S} s") from error
    except asyncio.CancelledError:  # a server that is stopped as it starts: nobody would end it
        process.terminate()
        raise


def _not_started(home: Home, why: str) -> HostError:
    log = home.run / "broker.log"
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
    last = f": {tail[-1]}" if tail else ""
    return HostError(f"the broker did not start, {why}{last}", hint=f"See {log}.")
