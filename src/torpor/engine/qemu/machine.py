"""One running QEMU process: its monitor, its link, and what can be done to it.

The monitor speaks QMP through the `qemu.qmp` library. Device state goes in by an inherited
memory file and comes out through a file of the machine's directory; neither needs to be durable
here, since what is kept is stored by the snapshot store.

A third channel writes guest memory (QEMU's qtest protocol: a line a command, a line an answer). It
is only used to make QEMU forget what it translated; pages themselves are written in bulk, past it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from qemu.qmp import EventListener, QMPClient, QMPError

from torpor.core.errors import HostError, InternalError
from torpor.engine.cputime import cpu_s
from torpor.engine.memory import (
    PAGE,
    PageNumbers,
    Pages,
    changed_pages,
    mapping_of,
    read_pages,
    touched_pages,
    write_pages,
)
from torpor.engine.qemu import reload
from torpor.snapshot.pages import page_ranges

ArgvFor = Callable[[int, int, int], list[str]]

_LAUNCH = Path(__file__).with_name("launch.py")
_MONITOR_TIMEOUT_S = 30
_UNLIMITED = 1 << 50  # bytes a second
_RELOADED = "reloaded"  # the name of the file, and of the job, of a `become`

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it reports each killed QEMU as an error


class QemuMachine:
    """See `torpor.engine.protocol.Machine`. Made by `start`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        monitor: QMPClient,
        link: socket.socket,
        writing: socket.socket,
        directory: Path,
        memory: Path,
        memory_bytes: int,
    ) -> None:
        self._process = process
        self._monitor = monitor
        self._link = link
        self._writing = writing
        self._loaded = False
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._address = mapping_of(process.pid, str(memory), memory_bytes)
        self._running = False  # it was asked to run
        self._stopped = asyncio.Event()  # it has stopped all the same, perhaps
        self._io_error = ""
        # Its filter takes all it hears, and keeps nothing.
        monitor.register_listener(EventListener(("BLOCK_IO_ERROR", "STOP"), self._on_stop))

    @classmethod
    async def start(
        cls,
        argv_for: ArgvFor,
        directory: Path,
        memory: Path,
        memory_bytes: int,
    ) -> QemuMachine:
        """Start QEMU and shake hands with its monitor. `argv_for(monitor_fd, link_fd, memory_fd)`
        gives the command. Raises HostError with QEMU's own words if it does not come up."""
        ours, theirs = zip(*(socket.socketpair() for _ in range(3)), strict=True)
        log = directory / "qemu.log"
        try:
            with log.open("wb") as output:
                inherited = [end.fileno() for end in theirs]
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid())),
                    *argv_for(*inherited),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=inherited,
                    start_new_session=True,
                    env={"PATH": os.defpath},  # nothing of ours: the server's may hold a secret
                )
        finally:
            for end in theirs:
                end.close()
        monitor_end, link, writing = ours
        monitor = QMPClient(f"qemu-{process.pid}")
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                await monitor.connect(monitor_end)
            link.setblocking(False)
            writing.setblocking(False)
            return cls(process, monitor, link, writing, directory, memory, memory_bytes)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            for end in ours:
                end.close()
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
        self._loaded = True

    async def forget(self, numbers: PageNumbers) -> None:
        if not self._loaded:
            return  # nothing was translated yet
        firsts, counts = page_ranges(numbers)
        commands = "".join(
            f"memset {first * PAGE:#x} {count * PAGE:#x} 0x0\n"
            for first, count in zip(firsts.tolist(), counts.tolist(), strict=True)
        )
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                await asyncio.gather(
                    loop.sock_sendall(self._writing, commands.encode()), self._agreed(len(firsts))
                )
        except (OSError, EOFError, TimeoutError) as error:
            why = str(error) or type(error).__name__
            raise HostError(
                f"QEMU (pid {self.pid}) did not forget pages: {why}; {self.last_words()}"
            ) from error

    async def _agreed(self, count: int) -> None:
        """Hear so many times that a write was done."""
        loop, replies = asyncio.get_running_loop(), b""
        while replies.count(b"\n") < count:
            more = await loop.sock_recv(self._writing, 1 << 16)
            if not more:
                raise EOFError("it is gone")
            replies += more
        if replies != b"OK\n" * count:
            raise HostError(f"QEMU (pid {self.pid}) refused to write its guest's memory")

    async def become(self, numbers: PageNumbers, pages: Pages, device_state: bytes) -> None:
        await asyncio.to_thread(write_pages, self.pid, self._address, numbers, pages)
        if not self._loaded:
            await self.load(device_state)
            return
        path = self._directory / "device-state.qcow2"
        await asyncio.to_thread(path.write_bytes, reload.for_snapshot_load(device_state))
        await self._execute(
            "blockdev-add",
            **{
                "driver": "qcow2",
                "node-name": _RELOADED,
                # Nothing of it outlives the process: QEMU need not sync what it notes in it.
                "cache": {"no-flush": True},
                "file": {"driver": "file", "filename": str(path)},
            },
        )
        listener = EventListener("JOB_STATUS_CHANGE", _job_concluded)
        with self._monitor.listen(listener):
            await self._execute(
                "snapshot-load",
                **{"job-id": _RELOADED, "tag": reload.TAG},
                vmstate=_RELOADED,
                devices=[_RELOADED],
            )
            try:
                async with asyncio.timeout(_MONITOR_TIMEOUT_S):
                    await listener.get()
            except TimeoutError as error:
                raise HostError(
                    f"QEMU (pid {self.pid}) did not take a device state: {self.last_words()}"
                ) from error
        (job,) = cast(list[dict[str, object]], await self._execute("query-jobs"))
        if "error" in job:
            raise HostError(f"QEMU (pid {self.pid}) did not take a device state: {job['error']}")

    async def save_to(self, fd: int, limit_s: float) -> None:
        """Write a paused machine, all its memory too, as QEMU itself migrates: what snapshots are
        measured against. It can only be killed then."""
        # QEMU minds a network's bandwidth unless it is set.
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
        self._running = True
        self._stopped.clear()
        await self._execute("cont")

    async def pause(self) -> None:
        self._running = False
        await self._execute("stop")

    async def stalled(self) -> str:
        while True:
            await self._stopped.wait()
            self._stopped.clear()  # a stop from now on sets it again
            try:
                status = await self._execute("query-status")
            except BaseException:
                self._stopped.set()
                raise
            match status:
                case {"running": True}:
                    continue
                case {"status": "io-error"}:
                    self._stopped.set()
                    return f"its disk cannot be written to {self._directory}: {self._io_error}"
                case {"status": "paused"} if not self._running:
                    continue
            raise HostError(f"QEMU (pid {self.pid}) stopped its machine: {status}")

    def _on_stop(self, event: object) -> bool:
        match event:
            case {"event": "BLOCK_IO_ERROR", "data": {"reason": str(reason)}}:
                self._io_error = reason
            case {"event": "STOP"} if self._running:
                self._stopped.set()
        return False

    async def device_state(self) -> bytes:
        path = self._directory / "device-state"
        await self._execute("xen-save-devices-state", filename=str(path))
        return path.read_bytes()

    def changed_memory(self) -> PageNumbers:
        return changed_pages(self.pid, self._address, self._memory_bytes)

    def read_memory(self, numbers: PageNumbers, into: Pages) -> None:
        read_pages(self.pid, self._address, numbers, into)

    def touched_memory(self) -> PageNumbers:
        return touched_pages(self.pid, self._address, self._memory_bytes)

    def cpu_s(self) -> float:
        return cpu_s(self.pid)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._link.close()
        self._writing.close()
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


def _job_concluded(event: object) -> bool:
    match event:
        case {"data": {"status": "concluded"}}:
            return True
    return False


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError as error:
        raise InternalError(f"no log of QEMU at {log}") from error
    # It warns of CPU features that emulation leaves out, at every start.
    printed = [line for line in lines if ": warning: " not in line]
    return "\n".join(printed[-5:]) or "it printed nothing"


def _exit_words(code: int) -> str:
    if code == -signal.SIGBUS:
        return "SIGBUS (the file that its memory is on cannot be read: is that disk full?)"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
