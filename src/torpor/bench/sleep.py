"""`torpor bench sleep`: how fast an agent falls asleep and wakes, and what its sleep costs.

The real service runs in this process on a data directory of its own, which shares guest images
and caches with the user's. `asleep.py` is deployed and run on it; whenever its run is suspended,
it is answered. All figures of ours are those that the run's own log holds, but for one: that
a freeze lasts until its record is committed can only be seen from outside, so the time from the
record's entry until its subscriber was told is added.

Half of the wakes are cold: the page cache of all layers, manifests and image files is dropped,
and so are the caches of the pager and of this process. Before each answer the spare machine that
the pool starts after a wake is ready, as it is in real life, where waits are longer than its
start.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.status import Status
from sqlalchemy import Connection

from torpor.bench import cold, peer, sealing
from torpor.bench.sealing import Cost
from torpor.bench.stats import Figures, Samples, ratios
from torpor.cli import words
from torpor.cli.screen import err, say, show, show_json, table
from torpor.control.keys import SWITCH, Keys
from torpor.control.service import Service
from torpor.engine.protocol import Shape
from torpor.log import agents, entries, runs, snapshots
from torpor.log.entries import EntryRow
from torpor.log.runs import RunRow
from torpor.log.snapshots import SnapshotRow
from torpor.log.store import LogStore
from torpor.model.agentfile import read_agent
from torpor.model.errors import GuestError, InternalError
from torpor.model.home import Home
from torpor.model.ids import AgentVersion, RunId, Seq
from torpor.model.states import FINAL, RunState

AGENT = Path(__file__).with_name("asleep.py")
PEER_CYCLES_MAX = 10
# What takes longer than this has gone wrong.
ASLEEP_LIMIT_S = 180.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    engine: str
    engine_version: str
    accel: str
    memory_mib: int
    cycles: int
    peer_cycles: int
    ours: Figures
    peer: Figures
    sealing: Cost

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "accel": self.accel,
            "memory_mib": self.memory_mib,
            "cycles": self.cycles,
            **self.ours.to_json(),
            "peer": self.peer.to_json(),
            "ratio": ratios(self.ours, self.peer),
            "sealing": self.sealing.to_json(),
        }


def main(memory_mib: int, cycles: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. `cycles` is at least 2: a
    warm one and a cold one. Raises TorporError."""
    peer.require_zstd()
    with _own_home(Home.find()) as home, _progress() as tell:
        report = asyncio.run(_until_told(_measure(home, memory_mib, cycles, tell)))
    if as_json:
        show_json(report.to_json())
    else:
        show(_as_table(report))
        for line in _remarks(report):
            show(line)
    return 0


@contextmanager
def _own_home(user: Home) -> Iterator[Home]:
    """An empty data directory on the disk of the user's, with its images and caches."""
    user.create()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=user.root.resolve()) as directory:
        home = Home(Path(directory))
        for theirs, ours in ((user.images, home.images), (user.cache, home.cache)):
            ours.symlink_to(theirs.resolve(), target_is_directory=True)
        yield home.create()


@contextmanager
def _progress() -> Iterator[Tell]:
    """One moving line in a terminal, else a line each."""
    if not err.is_terminal:
        yield say
        return
    with err.status("") as status:
        yield lambda text: _update(status, text)


def _update(status: Status, text: str) -> None:
    status.update(text.replace("[", r"\["))


async def _until_told(work: Any) -> Report:
    """SIGTERM ends it as Ctrl-C does: machines, pager and files are cleared away."""
    task: asyncio.Task[Report] = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _measure(home: Home, memory_mib: int, cycles: int, tell: Tell) -> Report:
    store = await asyncio.to_thread(LogStore.open, home.database)
    service = Service(home, store)
    try:
        source = replace(read_agent(AGENT), memory_mib=memory_mib)
        deployed = await service.deploy(source, lambda stage, message, fraction: tell(message))
        run = RunId((await service.start(deployed["version"], None, {}, None))["id"])
        ours = await _sleep_and_wake(service, store, run, cycles, tell)

        template, newest = await store.read(
            lambda c: _template_and_newest(c, deployed["version"], run)
        )
        peer_cycles = min(cycles, PEER_CYCLES_MAX)
        tell("QEMU's own migration of the same machine")
        theirs = await peer.measure(
            service.machines,
            run,
            newest,
            await Keys(home, store, on=False).find(run),
            peer_cycles,
            home.run,
            lambda cycle: tell(f"QEMU's own migration, {cycle + 1} of {peer_cycles}"),
        )
        theirs_template = await peer.template_bytes(service.machines, template, home.run)
        tell("what sealing costs")
        memory = sealing.memory_of(service.machines.store, template.manifest)
        sealed = await asyncio.to_thread(sealing.measure, memory, home.run)
        await _check(service, store, run, drafts=cycles + 1)
        shape = _shape(service, source.disk_mib, memory_mib)
    finally:
        await service.stop()
        await asyncio.to_thread(_wait_for_pager, home)
    boot_ms = deployed["boot_ms"]
    return Report(
        engine=shape.engine,
        engine_version=shape.engine_version,
        accel=shape.accel,
        memory_mib=memory_mib,
        cycles=cycles,
        peer_cycles=peer_cycles,
        ours=Figures.of(ours, boot_ms=boot_ms, template_bytes=deployed["template_bytes"]),
        # The peer's machine was booted by the same boot.
        peer=Figures.of(theirs, boot_ms=boot_ms, template_bytes=theirs_template),
        sealing=sealed,
    )


async def _sleep_and_wake(
    service: Service, store: LogStore, run: RunId, cycles: int, tell: Tell
) -> Samples:
    samples = Samples()
    row, told_at = await _until_asleep(service, store, run, after_epoch=0)
    seen = Seq(0)
    for cycle in range(cycles):
        log = await _entries(store, run, seen)
        frozen, seen = _last(log, "snapshot"), log[-1].seq
        samples.fell_asleep(
            frozen.data["pause_ms"],
            frozen.data["freeze_ms"] + max(0.0, told_at - frozen.at) * 1000,
            frozen.data["bytes"],
        )
        is_cold = bool(cycle % 2)
        tell(f"cycle {cycle + 1} of {cycles}, {'cold' if is_cold else 'warm'}")
        await service.machines.pool.settled()
        if is_cold:
            await _make_cold(service)
        await _answer(service, run, approved=True)
        row, told_at = await _until_asleep(service, store, run, after_epoch=row.epoch)
        woke = _last(await _entries(store, run, seen), "machine.up")
        samples.woke(woke.data["resume_ms"], cold=is_cold)
    return samples


async def _until_asleep(
    service: Service, store: LogStore, run: RunId, *, after_epoch: int
) -> tuple[RunRow, float]:
    """Wait until the run is suspended and its machine, of an epoch later than `after_epoch`, is
    gone; the run, and when its record was committed."""
    try:
        async with asyncio.timeout(ASLEEP_LIMIT_S):
            with store.subscribe(run) as subscription:
                told_at = time.time()
                row = await store.read(lambda c: runs.get_run(c, run))
                while not (row.state is RunState.SUSPENDED and row.epoch > after_epoch):
                    if row.state in FINAL:
                        raise GuestError(f"the agent ended as {row.state.value}: {row.error}")
                    await subscription.wait()
                    told_at = time.time()
                    row = await store.read(lambda c: runs.get_run(c, run))
            # Nothing tells of that: the log is done with the machine by then.
            while (await service.run(run))["machine"] is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise GuestError(f"the agent was not asleep within {ASLEEP_LIMIT_S:g} s") from error
    return row, told_at


async def _entries(store: LogStore, run: RunId, after: Seq) -> list[EntryRow]:
    return await store.read(lambda c: entries.read_entries(c, run, after))


def _last(log: list[EntryRow], kind: str) -> EntryRow:
    return next(entry for entry in reversed(log) if entry.kind == kind)


async def _answer(service: Service, run: RunId, *, approved: bool) -> None:
    (wait,) = await service.waits(run, all=False)
    await service.complete(wait["id"], None, approved, None, "torpor bench")


async def _make_cold(service: Service) -> None:
    machines = service.machines
    await machines.drop_caches()
    files = cold.files_below(machines.home.blobs, machines.image.directory)
    await asyncio.to_thread(cold.forget, files)


def _template_and_newest(
    c: Connection, version: AgentVersion, run: RunId
) -> tuple[SnapshotRow, SnapshotRow]:
    template = agents.get_agent(c, version).template
    newest = snapshots.newest_snapshot(c, run)
    assert template is not None and newest is not None
    return snapshots.get_snapshot(c, template), newest


async def _check(service: Service, store: LogStore, run: RunId, *, drafts: int) -> None:
    """Let the agent end, and see that it lost nothing: else its figures are worth nothing."""
    await _answer(service, run, approved=False)
    with store.subscribe(run) as subscription:
        row = await store.read(lambda c: runs.get_run(c, run))
        while row.state not in FINAL:
            await subscription.wait()
            row = await store.read(lambda c: runs.get_run(c, run))
    if row.result != {"drafts": drafts, "intact": True}:
        raise InternalError(
            f"after {drafts} sleeps the agent ended as {row.state.value} with "
            f"{row.result or row.error}: it should have {drafts} drafts, intact"
        )


def _shape(service: Service, disk_mib: int, memory_mib: int) -> Shape:
    return service.machines.shape(memory_mib=memory_mib, disk_mib=disk_mib, deps="")


def _wait_for_pager(home: Home) -> None:
    """It ends a moment after it was told to, and only then its files can be removed."""
    with (home.run / "pager.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


# (title, field, how a value is shown)
_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("boot to ready", "boot_ms", lambda ms: words.duration(ms / 1000)),
    ("template", "template_bytes", words.size),
    ("pause: the guest stands still", "pause_ms", lambda ms: words.duration(ms / 1000)),
    ("freeze: decision to durable", "freeze_ms", lambda ms: words.duration(ms / 1000)),
    ("snapshot", "snapshot_bytes", words.size),
    ("resume, warm: decision to answer", "resume_warm_ms", lambda ms: words.duration(ms / 1000)),
    ("resume, cold: decision to answer", "resume_cold_ms", lambda ms: words.duration(ms / 1000)),
)


def _as_table(report: Report) -> Any:
    ours, theirs = report.ours.to_json(), report.peer.to_json()
    ratio = ratios(report.ours, report.peer)

    def cells(value: Any, show_one: Callable[[float], str]) -> str:
        if not isinstance(value, dict):
            return show_one(value)
        if len(set(value.values())) == 1:
            return show_one(value["p50"])
        return " / ".join(show_one(each) for each in value.values())

    def p50(value: Any) -> float:
        return float(value["p50"] if isinstance(value, dict) else value)

    return table(
        ("p50 / p90 / max", "TORPOR", "QEMU", "RATIO"),
        [
            (
                title,
                cells(ours[name], show_one),
                cells(theirs[name], show_one),
                f"{p50(ratio[name]):.3g}",
            )
            for title, name, show_one in _ROWS
        ],
    )


def _remarks(report: Report) -> Iterator[str]:
    how = "KVM" if report.accel == "kvm" else "emulation (no usable KVM)"
    yield (
        f"{_processor()}, {words.count(os.cpu_count() or 1, 'core')}, {how}, "
        f"{report.engine} {report.engine_version}, guest of {report.memory_mib} MiB, "
        f"{words.count(report.cycles, 'cycle')} (QEMU's own: {report.peer_cycles}), "
        "half warm, half cold."
    )
    yield (
        "Cold: page cache dropped for layers, manifests and image, and the pager's cache emptied. "
        "A wake finds a spare machine started, as it does after any wait of seconds; "
        "QEMU's own finds one too."
    )
    yield (
        "QEMU: stop, migrate to a file through zstd -1 -T2, fsync; then zstd -dc into a new one. "
        "The boot is the same. Ratio: torpor's p50 over QEMU's."
    )
    cost = report.sealing
    yield (
        f"Sealing, p50: {words.size(cost.bytes)} of the guest's pages become a layer in "
        f"{cost.write_ms.p50:.0f} ms, a sealed one in {cost.write_sealed_ms.p50:.0f} ms; a frame "
        f"is read in {cost.frame_us.p50:.0f} µs, a sealed one in {cost.frame_sealed_us.p50:.0f} µs "
        f"({sealing.TURNS} layers and all frames, in turns). {SWITCH}=off measures all without."
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return os.uname().machine
