"""What torpor is measured against: QEMU's own migration of the same guest to a file.

The guest is a run's, restored from the run's newest snapshot, asleep in the same wait. Then it is
moved from file to file, each time by a new QEMU with ordinary, anonymous memory:

    freeze   stop ─► migrate to a pipe ─► zstd -1 -T2 ─► file ─► fsync of file and directory
    resume   zstd -dc ─► pipe ─► migrate-incoming ─► cont ─► thaw ─► the guest's first answer

QEMU gets what torpor gives itself and more: the QEMU that will resume has been started before, so
has the zstd that compresses; no bandwidth limit; the preparation of the guest is not counted; and
its disk is not part of the file, but stays where it is, a slot of the pager.

`PLAIN` leaves zstd out: QEMU writes the file itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from torpor.bench import cold
from torpor.bench.stats import Samples
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.errors import GuestError, HostError
from torpor.core.ids import Epoch, RunId
from torpor.core.limits import PREPARE_LIMIT_S
from torpor.engine.protocol import Files, Machine
from torpor.engine.qemu.machine import QemuMachine
from torpor.image.tools import require
from torpor.machines.guest import Guest
from torpor.machines.host import Frozen, Machines
from torpor.machines.live import History, Live
from torpor.machines.thaw import thaw
from torpor.policy.freeze import MACHINE
from torpor.snapshot.seal import Key
from torpor.wire import names
from torpor.wire.link import Link, LinkState

MIGRATE_LIMIT_S = 600.0
PIPE_BYTES = 1 << 20
# A private mapping of it is anonymous memory, without a file to be found and copied from first.
ANONYMOUS = Path("/dev/zero")


@dataclass(frozen=True)
class Way:
    """The programs between QEMU and the file, which is their last argument; empty: none."""

    compress: tuple[str, ...] = ()
    decompress: tuple[str, ...] = ()


ZSTD = Way(("zstd", "-1", "-T2", "-q", "-f", "-o"), ("zstd", "-dc", "-q"))
PLAIN = Way()


@dataclass(frozen=True)
class Saved:
    """One frozen machine, durable in `file`."""

    file: Path
    link: LinkState
    pause_ms: float  # stop until QEMU has handed over all of it, and could go on
    freeze_ms: float  # stop until it is durable
    bytes: int


def require_zstd() -> None:
    """Raises Missing."""
    require(ZSTD.compress[0])


async def template_bytes(
    machines: Machines, template: SnapshotRow, directory: Path, way: Way = ZSTD
) -> int:
    """Size of QEMU's file of a template's machine."""
    link = LinkState.from_json(template.link or {})
    live = await machines.restore(Frozen(template.manifest, link))
    try:
        return (await _save(live, directory / "template.peer", way)).bytes
    finally:
        await machines.discard(live)


async def measure(
    machines: Machines,
    run: RunId,
    newest: SnapshotRow,
    key: Key | None,
    cycles: int,
    directory: Path,
    progress: Callable[[int], None],
    way: Way = ZSTD,
) -> Samples:
    """Freeze and resume the guest of `newest`, which `key` opens, `cycles` times, every other time
    cold. The run itself is not touched. Raises HostError, GuestError."""
    samples = Samples()
    epochs = itertools.count(newest.epoch + 1)
    link = LinkState.from_json(newest.link or {})
    on_slot = await machines.restore(Frozen(newest.manifest, link, key))
    try:
        await thaw(on_slot.guest, run, Epoch(next(epochs)), started=True, journal=[])
        # Once for nothing: its memory is the pager's file, which a peer would not have.
        saved = await _freeze(on_slot, directory, way)
        await on_slot.machine.kill()
        async with _resumed(machines, on_slot, saved, run, Epoch(next(epochs)), way) as (live, _):
            saved = await _freeze(live, directory, way)
        for cycle in range(cycles):
            progress(cycle)
            is_cold = bool(cycle % 2)
            if is_cold:
                await asyncio.to_thread(cold.forget, [saved.file, machines.image.root])
            epoch = Epoch(next(epochs))
            async with _resumed(machines, on_slot, saved, run, epoch, way) as (live, resume_ms):
                samples.woke(resume_ms, cold=is_cold)
                saved = await _freeze(live, directory, way)
            samples.fell_asleep(saved.pause_ms, saved.freeze_ms, saved.bytes)
    finally:
        await machines.discard(on_slot)
    return samples


@contextlib.asynccontextmanager
async def _resumed(
    machines: Machines, on_slot: Live, saved: Saved, run: RunId, epoch: Epoch, way: Way
) -> AsyncIterator[tuple[Live, float]]:
    """The machine of `saved` on the slot's disk, awake, and how many ms that took."""
    machine = await _empty(machines, on_slot)
    try:
        started = time.perf_counter()
        async with _source(saved.file, way) as source:
            await machine.load_from(source.fileno(), MIGRATE_LIMIT_S)
            guest = Guest(machine, Link.from_state(saved.link))
            live = replace(on_slot, machine=machine, guest=guest, history=History())
            await thaw(live.guest, run, epoch, started=True, journal=[])
            resume_ms = (time.perf_counter() - started) * 1000
        try:
            yield live, resume_ms
        finally:
            await guest.stop_pumping()
    finally:
        await machine.kill()


async def _empty(machines: Machines, on_slot: Live) -> QemuMachine:
    slot = machines.home.mount / on_slot.name
    files = Files(ANONYMOUS, slot / "disk", machines.image.root, deps=None)
    return _qemu(await machines.engine.start(on_slot.shape, files, on_slot.directory))


def _qemu(machine: Machine) -> QemuMachine:
    assert isinstance(machine, QemuMachine)
    return machine


async def _freeze(live: Live, directory: Path, way: Way) -> Saved:
    """Once the agent has been asleep for a moment, as when torpor freezes it."""
    await asyncio.sleep(MACHINE.grace_s)
    live.guest.say(names.PREPARE)
    answer = await live.guest.hear(names.PREPARED, names.UNPREPARED, within_s=PREPARE_LIMIT_S)
    if answer["t"] != names.PREPARED:
        raise GuestError(f"the machine could not prepare to be frozen: {answer['reason']}")
    return await _save(live, directory / "guest.peer", way)


async def _save(live: Live, file: Path, way: Way) -> Saved:
    machine = _qemu(live.machine)
    await live.guest.stop_pumping()
    async with _sink(file, way) as sink:
        started = time.perf_counter()
        await machine.pause()
        live.guest.drain()
        await machine.save_to(sink.fileno(), MIGRATE_LIMIT_S)
        pause_ms = (time.perf_counter() - started) * 1000
    await asyncio.to_thread(_sync, file)
    freeze_ms = (time.perf_counter() - started) * 1000
    return Saved(file, live.guest.link.state(), pause_ms, freeze_ms, file.stat().st_size)


@contextlib.asynccontextmanager
async def _sink(file: Path, way: Way) -> AsyncIterator[IO[bytes]]:
    """What to write to that it gets into the file; at the end all of it is there."""
    if not way.compress:
        with file.open("wb") as sink:
            yield sink
        return
    out, into = _wide_pipe()
    with os.fdopen(into, "wb") as sink:
        async with _program(*way.compress, str(file), stdin=out):
            yield sink
            sink.close()


@contextlib.asynccontextmanager
async def _source(file: Path, way: Way) -> AsyncIterator[IO[bytes]]:
    """What to read from that gives what was written to `_sink`."""
    if not way.decompress:
        with file.open("rb") as source:
            yield source
        return
    out, into = _wide_pipe()
    with os.fdopen(out, "rb") as source:
        async with _program(*way.decompress, str(file), stdout=into):
            yield source


def _wide_pipe() -> tuple[int, int]:
    """Its ends, to be read from and written to."""
    out, into = os.pipe()
    fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return out, into


@contextlib.asynccontextmanager
async def _program(
    *argv: str, stdin: int = subprocess.DEVNULL, stdout: int = subprocess.DEVNULL
) -> AsyncIterator[None]:
    """Runs a program with a pipe's end, which becomes its own; at the end waits for it. Raises
    HostError if it fails."""
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE
        )
    finally:
        for end in (stdin, stdout):
            if end != subprocess.DEVNULL:
                os.close(end)
    try:
        yield
    except BaseException:
        process.kill()
        await process.wait()
        raise
    _, complaints = await process.communicate()
    if process.returncode:
        words = complaints.decode(errors="replace").strip()
        raise HostError(f"{argv[0]} ended with exit code {process.returncode}: {words}")


def _sync(file: Path) -> None:
    for path in (file, file.parent):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
