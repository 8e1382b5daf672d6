"""One running QEMU process: its monitor, its link, and what can be done to it.

The monitor speaks QMP through the `qemu.qmp` library. Device state goes in by an inherited
memory file and comes out through a file of the machine's directory; neither needs to be durable
here, since what is kept is stored by the snapshot store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from qemu.qmp import EventListener, QMPClient, QMPError

from torpor.engine.memory import (
    CopyBuffer,
    PageNumbers,
    Pages,
    changed_pages,
    mapping_of,
    read_pages,
    touched_pages,
)
from torpor.model.errors import HostError, InternalError

ArgvFor = Callable[[int, int], list[str]]

_LAUNCH = Path(__file__).with_name("launch.py")
_MONITOR_TIMEOUT_S = 30
_UNLIMITED = 1 << 50  # bytes a second

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it reports each killed QEMU as an error


class QemuMachine:
    """See `torpor.engine.protocol.Machine`. Made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        monitor: QMPClient,
        link: socket.socket,
        directory: Path,
        memory: Path,
        memory_bytes: int,
    ) -> None:
        self._process = process
        self._monitor = monitor
        self._link = link
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._address = mapping_of(process.pid, str(memory), memory_bytes)

    @classmethod
    async def start(
        cls,
        argv_for: ArgvFor,
        directory: Path,
        memory: Path,
        memory_bytes: int,
    ) -> QemuMachine:
        """Start QEMU and shake hands with its monitor. `argv_for(monitor_fd, link_fd)` gives
        the command. Raises HostError with QEMU's own words if it does not come up."""
        monitor_ours, monitor_theirs = socket.socketpair()
        link_ours, link_theirs = socket.socketpair()
        log = directory / "qemu.log"
        with monitor_theirs, link_theirs, log.open("wb") as output:
            argv = argv_for(monitor_theirs.fileno(), link_theirs.fileno())
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid()), *argv),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(monitor_theirs.fileno(), link_theirs.fileno()),
                start_new_session=True,
                env={"PATH": os.defpath},  # nothing of ours: the server's may hold a secret
            )
        monitor = QMPClient(f"qemu-{process.pid}")
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                await monitor.connect(monitor_ours)
            link_ours.setblocking(False)
            return cls(process, monitor, link_ours, directory, memory, memory_bytes)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            monitor_ours.close()
            link_ours.close()
            if isinstance(error, QMPError | OSError | EOFError | TimeoutError):
                raise HostError(
                    f"QEMU did not start: {_tail(log)}", hint="Run `torpor doctor`."
                ) from error
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    @property
    def link(self) -> socket.socket:
        return self._link

    async def _execute(self, command: str, **arguments: object) -> object:
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                return await self._monitor.execute(command, arguments or None)
        except (QMPError, OSError, EOFError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise HostError(
                f"QEMU (pid {self.pid}) did not do {command!r}: {why}; {self.last_words()}"
            ) from error

    async def load(self, device_state: bytes) -> None:
        fd = os.memfd_create("device-state")
        try:
            os.write(fd, device_state)
            os.lseek(fd, 0, os.SEEK_SET)
            await self.load_from(fd)
        finally:
            os.close(fd)

    async def load_from(self, fd: int, limit_s: float = _MONITOR_TIMEOUT_S) -> None:
        """Give an empty machine what a file or pipe holds: device state, or all that `save_to`
        wrote, memory too."""
        await self._migrate("migrate-incoming", fd, limit_s)

    async def save_to(self, fd: int, limit_s: float) -> None:
        """Write a paused machine, all its memory too, as QEMU itself migrates: what snapshots are
        measured against. It can only be killed then."""
        # QEMU minds a network's bandwidth unless told otherwise.
        await self._execute("migrate-set-parameters", **{"max-bandwidth": _UNLIMITED})
        await self._migrate("migrate", fd, limit_s)

    async def _migrate(self, command: str, fd: int, limit_s: float) -> None:
        await self._execute(
            "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
        )
        listener = EventListener("MIGRATION", _migration_ended)
        self._monitor.send_fd_scm(fd)
        await self._execute("getfd", fdname="state")
        with self._monitor.listen(listener):
            await self._execute(command, uri="fd:state")
            event = asyncio.ensure_future(listener.get())
            ended = asyncio.ensure_future(self._process.wait())
            first = (event, ended)
            await asyncio.wait(first, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
            for task in first:
                task.cancel()
        if ended.done() and not event.done():
            raise HostError(f"QEMU ended while it was to {command!r}: {self.last_words()}")
        if not event.done():
            raise HostError(
                f"QEMU did not end {command!r} within {limit_s:g} s: {self.last_words()}"
            )
        data = event.result()["data"]
        if not (isinstance(data, dict) and data.get("status") == "completed"):
            raise HostError(f"QEMU failed to {command!r}: {self.last_words()}")

    async def resume(self) -> None:
        await self._execute("cont")

    async def pause(self) -> None:
        await self._execute("stop")

    async def device_state(self) -> bytes:
        path = self._directory / "device-state"
        await self._execute("xen-save-devices-state", filename=str(path))
        return path.read_bytes()

    def changed_memory(self, buffer: CopyBuffer) -> tuple[PageNumbers, Pages]:
        numbers = changed_pages(self.pid, self._address, self._memory_bytes)
        pages = buffer.room(len(numbers))
        read_pages(self.pid, self._address, numbers, pages)
        return numbers, pages

    def touched_memory(self) -> PageNumbers:
        return touched_pages(self.pid, self._address, self._memory_bytes)

    def cpu_s(self) -> float:
        # CPU-time clock of another process: clock_getcpuclockid(3), CPUCLOCK_SCHED.
        with contextlib.suppress(OSError):
            return time.clock_gettime((~self.pid << 3) | 2)
        return 0.0

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._link.close()
        with contextlib.suppress(QMPError, OSError, EOFError, asyncio.CancelledError):
            await self._monitor.disconnect()

    async def ended(self) -> str:
        code = await self._process.wait()
        return f"QEMU ended with {_exit_words(code)}: {self.last_words()}"

    def last_words(self) -> str:
        return _tail(self._directory / "qemu.log")


def _migration_ended(event: object) -> bool:
    match event:
        case {"data": {"status": "completed" | "failed"}}:
            return True
    return False


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        raise InternalError(f"no log of QEMU at {log}") from error
    # It warns of CPU features that emulation leaves out, at every start.
    said = [line for line in lines if ": warning: " not in line]
    return "\n".join(said[-5:]) or "it printed nothing"


def _exit_words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
