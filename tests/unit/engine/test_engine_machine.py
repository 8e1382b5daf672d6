"""Real QEMU processes, of machines without a kernel."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.engine.stand import BINARY, MIB, SHAPE, VERSION, Stand

from torpor.core.errors import Damaged, HostError, InternalError
from torpor.engine.memory import PAGE
from torpor.engine.qemu import machine as machines
from torpor.engine.qemu.engine import QemuEngine
from torpor.engine.qemu.machine import QemuMachine
from torpor.engine.qemu.probe import Probe

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def stand(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Stand]:
    stand = Stand(tmp_path)
    yield stand
    for machine in stand.started:
        await machine.kill()


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


async def test_an_empty_machine_is_killed(stand: Stand) -> None:
    probe = Probe(BINARY, VERSION, "tcg", "", None)
    engine = QemuEngine(probe)
    shape = engine.shape(memory_mib=MIB, disk_mib=1, image="", deps="")
    assert shape == SHAPE
    machine = await engine.start(shape, stand.files, stand.directory)
    assert machine.alive and machine.cpu_s() > 0
    assert Path(f"/proc/{machine.pid}/environ").read_bytes().startswith(b"PATH=")
    assert b"\0TORPOR" not in Path(f"/proc/{machine.pid}/environ").read_bytes()
    await machine.kill()
    assert not machine.alive and is_gone(machine.pid)
    assert machine.cpu_s() == 0.0
    assert await machine.ended() == "QEMU ended with signal 9: it printed nothing"
    await machine.kill()


async def test_state_goes_from_one_machine_to_another(stand: Stand) -> None:
    first = await stand.paused()
    await first.pause()
    state = await first.device_state()
    assert 1000 < len(state) < 1_000_000
    await first.kill()
    second = await stand.empty()
    await second.load(state)
    await second.resume()
    await second.pause()
    again = await second.device_state()
    assert len(again) == len(state)


async def test_a_machine_becomes_another(stand: Stand) -> None:
    first = await stand.paused()
    await first.resume()
    await first.pause()
    state = await first.device_state()
    await first.kill()
    rng = np.random.default_rng(3)
    numbers = np.array([3, 4, 5, 900, MIB * 256 - 1])
    pages = rng.integers(0, 256, (len(numbers), PAGE)).astype(np.uint8)
    for loaded in (True, False):
        machine = await stand.empty()
        if loaded:
            await machine.load(state)
        await machine.forget(numbers)
        await machine.become(numbers, pages, state)
        assert set(numbers) <= set(machine.changed_memory())
        content = np.empty_like(pages)
        machine.read_memory(numbers, content)
        assert (content == pages).all()
        assert len(await machine.device_state()) == len(state)
        await machine.resume()
        await machine.pause()
        await machine.kill()


async def test_a_state_that_a_machine_cannot_become(stand: Stand) -> None:
    first = await stand.paused()
    await first.pause()
    state = await first.device_state()
    machine = await stand.empty()
    await machine.load(state)
    nothing = np.empty(0, np.int64), np.empty((0, PAGE), np.uint8)
    with pytest.raises(Damaged, match="without a plain section of its processor"):
        await machine.become(*nothing, b"QEVM nonsense")
    at = state.index(b"apic")
    with pytest.raises(HostError, match="did not take a device state"):
        await machine.become(*nothing, state[:at] + b"cipa" + state[at + 4 :])


async def test_pages_that_a_machine_has_not(stand: Stand) -> None:
    first = await stand.paused()
    await first.pause()
    machine = await stand.empty()
    await machine.load(await first.device_state())
    await machine.kill()
    with pytest.raises(HostError, match="did not forget pages"):
        await machine.forget(np.array([1, 2]))


@pytest.mark.parametrize("state", [b"", b"QEVM nonsense", os.urandom(20_000)])
async def test_a_state_that_is_none(stand: Stand, state: bytes) -> None:
    machine = await stand.empty()
    with pytest.raises(HostError, match=r"migrate-incoming|QEMU"):
        await machine.load(state)


async def test_an_end_during_a_load_is_noticed_at_once(stand: Stand) -> None:
    machine = await stand.empty()
    read, write = os.pipe()  # nothing ever comes out of it
    try:
        loading = asyncio.create_task(machine.load_from(read, limit_s=600))
        # Another process's descriptors send no event.
        while not loading.done() and not _has_open(machine.pid, read):  # noqa: ASYNC110
            await asyncio.sleep(0)
        os.kill(machine.pid, signal.SIGKILL)
        with pytest.raises(HostError, match="QEMU"):
            async with asyncio.timeout(60):
                await loading
    finally:
        os.close(read)
        os.close(write)


def _has_open(pid: int, fd: int) -> bool:
    """Whether process `pid` has what is our `fd` open too."""
    pipe = Path(f"/proc/self/fd/{fd}").readlink()
    return pipe in [each.readlink() for each in Path(f"/proc/{pid}/fd").iterdir()]


async def test_changed_memory_is_what_differs_from_the_file(stand: Stand) -> None:
    machine = await stand.paused()
    numbers = machine.changed_memory()
    pages = np.empty((len(numbers), PAGE), np.uint8)
    machine.read_memory(numbers, pages)
    file = np.memmap(stand.files.memory, dtype=np.uint8, mode="r").reshape(-1, 4096)
    assert not file[numbers].any()
    memory = np.zeros_like(file)
    memory[numbers] = pages
    fd = os.open(f"/proc/{machine.pid}/mem", os.O_RDONLY)
    held = os.pread(fd, MIB << 20, machine._address)
    os.close(fd)
    assert held == memory.tobytes()


async def test_wrong_options_are_told_in_qemus_words(stand: Stand) -> None:
    with pytest.raises(HostError, match=r"QEMU did not start: .*-nonsense: invalid option") as e:
        await stand.start(stand.argv("-nonsense"))
    assert e.value.hint == "Run `torpor doctor`."


async def test_a_file_that_is_not_there(stand: Stand) -> None:
    stand.files = replace(stand.files, root=stand.directory / "absent")
    with pytest.raises(HostError, match=r"Could not open .*absent"):
        await stand.empty()


async def test_a_program_that_is_not_there(stand: Stand) -> None:
    with pytest.raises(HostError, match="No such file or directory"):
        await stand.start(lambda *_: ["/absent"])


async def test_a_monitor_that_never_answers(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machines, "_MONITOR_TIMEOUT_S", 0.3)
    tell_pid = f"echo $$ > '{stand.directory}/pid'; exec sleep 1000"
    with pytest.raises(HostError, match="QEMU did not start: it printed nothing"):
        await stand.start(lambda *_: ["/bin/sh", "-c", tell_pid])
    told = stand.directory / "pid"
    if told.exists():  # it may have been given up before it came to that
        assert is_gone(int(told.read_text()))


async def test_a_qemu_that_has_not_our_memory_is_not_left_behind(stand: Stand) -> None:
    def argv_for(monitor_fd: int, link_fd: int, memory_fd: int) -> list[str]:
        argv = [BINARY, "-M", "none", "-nodefaults", "-nographic", "-S"]
        argv += ["-pidfile", str(stand.directory / "pid")]
        return [*argv, "-chardev", f"socket,id=m,fd={monitor_fd}", "-mon", "m,mode=control"]

    with pytest.raises(InternalError, match="does not map"):
        await stand.start(argv_for)
    assert not (stand.directory / "pid").exists() or is_gone(
        int((stand.directory / "pid").read_text())
    )


async def test_a_machine_that_dies_while_it_is_used(stand: Stand) -> None:
    machine = await stand.paused()
    os.kill(machine.pid, signal.SIGKILL)
    assert await machine.ended() == "QEMU ended with signal 9: it printed nothing"
    assert machine.link.recv(1) == b""
    with pytest.raises(HostError, match=rf"QEMU \(pid {machine.pid}\) did not do 'stop'"):
        await machine.pause()
    with pytest.raises(HostError, match="did not do 'xen-save-devices-state'"):
        await machine.device_state()
    with pytest.raises(OSError):
        machine.changed_memory()
    with pytest.raises(OSError):
        machine.read_memory(np.array([0]), np.empty((1, PAGE), np.uint8))


async def test_a_monitor_that_stops_answering(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = await stand.paused()
    monkeypatch.setattr(machines, "_MONITOR_TIMEOUT_S", 0.1)
    os.kill(machine.pid, signal.SIGSTOP)
    with pytest.raises(HostError, match="did not do 'cont': TimeoutError"):
        await machine.resume()
    await machine.kill()
    assert is_gone(machine.pid)


class Virtio:
    """A driver of the machine's writable disk, over the channel that writes its memory, since the
    guest has no kernel. Registers and rings as virtio's specification has them for MMIO, legacy."""

    SLOTS = range(0xFEB00000, 0xFEB00000 + 24 * 512, 512)
    BLOCK, READ_ONLY = 2, 1 << 5
    RING = 0x100000  # descriptors and what is available; a page on, what is used
    HEADER, DATA, STATUS = (0x110000 + at for at in (0, 512, 2048))

    def __init__(self, machine: QemuMachine) -> None:
        self._socket = machine._writing

    async def ask(self, words: str) -> int:
        loop, answer = asyncio.get_running_loop(), b""
        await loop.sock_sendall(self._socket, f"{words}\n".encode())
        while not answer.endswith(b"\n"):
            answer += await loop.sock_recv(self._socket, 4096)
        assert answer.startswith(b"OK"), answer
        return int(answer.removeprefix(b"OK").strip() or b"0", 16)

    async def disk(self) -> int:
        for base in self.SLOTS:
            block = await self.ask(f"readl {base + 0x08:#x}") == self.BLOCK
            if block and not await self.ask(f"readl {base + 0x10:#x}") & self.READ_ONLY:
                return base
        raise AssertionError("no writable disk")

    async def write_sector(self, content: bytes) -> None:
        """Ask the device to write it to the disk's beginning."""
        base = await self.disk()
        acknowledged, driver_ok = 3, 7
        started = ((0x70, acknowledged), (0x28, PAGE), (0x30, 0), (0x38, 8), (0x3C, PAGE))
        for register, word in (*started, (0x40, self.RING // PAGE), (0x70, driver_ok)):
            await self.ask(f"writel {base + register:#x} {word:#x}")
        chain = [(self.HEADER, 16, 1, 1), (self.DATA, len(content), 1, 2), (self.STATUS, 1, 2, 0)]
        for place, value in (
            (self.RING, b"".join(struct.pack("<QIHH", *each) for each in chain)),
            (self.HEADER, struct.pack("<IIQ", 1, 0, 0)),
            (self.DATA, content),
            (self.STATUS, b"\xff"),
            (self.RING + 8 * 16, struct.pack("<HHH", 0, 1, 0)),
        ):
            await self.ask(f"write {place:#x} {len(value)} 0x{value.hex()}")
        await self.ask(f"writel {base + 0x50:#x} 0")

    async def done(self) -> int:
        """The request's status: 0 done, 255 not yet."""
        return await self.ask(f"read {self.STATUS:#x} 1")


async def test_a_machine_on_a_full_disk_stands_still_until_there_is_room(stand: Stand) -> None:
    rules = stand.directory.parent / "rules"
    rules.write_text('[inject-error]\nevent = "write_aio"\nerrno = "28"\nonce = "on"\n')
    disk = stand.directory.parent / "disk"
    disk.write_bytes(bytes(1 << 20))
    full = f"file=blkdebug:{rules}:{disk}"
    plain = f"file={str(stand.files.disk).replace(',', ',,')}"
    argv_for = stand.argv(without=("-S", "-incoming", "defer"))
    machine = await stand.start(lambda *fds: [word.replace(plain, full) for word in argv_for(*fds)])
    await machine.resume()
    driver = Virtio(machine)
    await driver.write_sector(b"kept".ljust(512, b"."))
    async with asyncio.timeout(20):
        why = await machine.stalled()
    assert why.startswith(f"its disk cannot be written to {stand.directory}: No space left")
    assert await driver.done() == 255, "the guest sees no error"
    assert (await machine.stalled()) == why  # as long as it stands
    await machine.resume()
    async with asyncio.timeout(20):
        while await driver.done() != 0:
            pass
    assert disk.read_bytes().startswith(b"kept....")
    standing = asyncio.create_task(machine.stalled())
    await machine.pause()
    await machine.resume()
    await machine.pause()
    done, _ = await asyncio.wait([standing], timeout=0)
    assert not done, "it was paused: that is no stall"
    standing.cancel()
