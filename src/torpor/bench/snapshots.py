"""`torpor bench snapshots`: what snapshots cost, beside QEMU's own migration to a file.

`chores.py` is deployed and run on a stage (`torpor.bench.stage`), three times:

    first    small steps, each a freeze and a resume, every other one cold
    second   a chain of snapshots, one a small step, then half of them collected
    third    memory filled anew, then captured and served as fast as that goes

All three import modules and write files, the second before it first sleeps, so that its snapshots
differ in their depth alone; they are awake side by side once. Freezes and resumes are
as the runs' own logs tell; what only the store or the pager knows is measured on what those runs
have left.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection

from torpor.bench import bars, peer, sealing, throughput
from torpor.bench.bars import Figure, Gc, Growth, Measured, Slices
from torpor.bench.stage import (
    Sleeper,
    Slept,
    Stage,
    figure_table,
    make_cold,
    perform,
    processor,
)
from torpor.bench.stats import Samples, percentile
from torpor.contextlog import agents, snapshots
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.errors import InternalError
from torpor.core.ids import AgentVersion, Epoch, RunId
from torpor.core.limits import PREPARE_LIMIT_S
from torpor.engine import qemu
from torpor.machines.host import Frozen
from torpor.machines.live import Live
from torpor.machines.thaw import resume, thaw
from torpor.machines.warm import Base
from torpor.policy.freeze import MACHINE
from torpor.project.reading import read_agent
from torpor.snapshot import gc
from torpor.snapshot.layer import FRAME_PAGES, PAGE, Pages
from torpor.snapshot.manifest import Manifest
from torpor.snapshot.reader import FrameCache
from torpor.snapshot.refs import layer_numbers
from torpor.snapshot.seal import Key
from torpor.terminal.screen import show, show_json
from torpor.web import words
from torpor.wire import names
from torpor.wire.link import LinkState
from torpor.worker.sealing import SealingKeys

AGENT = Path(__file__).with_name("chores.py")
CYCLES = 30
STUDIES = 10
FILLS = 3
FILL_MIB = 96  # 100 MB
RESTORES = 6
DEPTHS = (1, 10, 100)
PROBES = 20
PREPARES = 6
# Snapshots of the chain that are taken between two sleeps.
CHAIN_LINKS = 100
# (name, way, cycles of the small snapshot, of the large one)
PEERS = ((bars.ZSTD, peer.ZSTD, 6, 2), (bars.PLAIN, peer.PLAIN, 4, 2))


@dataclass(frozen=True)
class Report:
    engine: str
    engine_version: str
    accel: str
    memory_mib: int
    encrypted: bool
    took_s: float
    figures: tuple[Figure, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "engine_version": self.engine_version,
            "accel": self.accel,
            "memory_mib": self.memory_mib,
            "encrypted": self.encrypted,
            "processor": processor(),
            "cores": os.cpu_count(),
            "took_s": round(self.took_s, 1),
            "figures": {figure.key: figure.to_json() for figure in self.figures},
        }


def main(memory_mib: int, many: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. `many` is how many
    snapshots the chain has. Raises TorporError."""
    peer.require_zstd()
    report = perform(lambda stage: _measure(stage, memory_mib, many))
    if as_json:
        show_json(report.to_json())
    else:
        show(figure_table(report.figures))
        show(_remarks(report))
    return 0


async def _measure(stage: Stage, memory_mib: int, many: int) -> Report:
    started = time.perf_counter()
    source = replace(read_agent(AGENT), memory_mib=memory_mib)
    deployed = await stage.service.agents.deploy(
        source, lambda _, message, fraction: stage.tell(message), qemu.NAME
    )
    workers = [
        await _Worker.start(stage, deployed["version"], study=study) for study in (0, STUDIES, 0)
    ]
    first, second, third = workers
    machines, directory = stage.service.machines, stage.home.run

    small = await _small_steps(first)
    ten_steps = [(await worker.do("study", STUDIES)).bytes for worker in (first, third)]
    ten_steps_pages = (await first.newest()).detail["pages"]
    stage.tell("machines side by side")
    machine_bytes, pushed_bytes = await _side_by_side(workers)
    learned_ms, unlearned_ms, thaw_ms = await _restored_cold(first)
    prepare_ms, engine_pause_ms = await _least_of_a_freeze(first)
    peers = {name: await first.peer(name, way, cycles) for name, way, cycles, _ in PEERS}

    fills = [await third.do("fill", FILL_MIB) for _ in range(FILLS)]
    fill_peers = {name: await third.peer(name, way, cycles) for name, way, _, cycles in PEERS}
    newest = await third.newest()
    stage.tell("capture and serve")
    pages = await asyncio.to_thread(_new_pages, stage, newest, third.key)
    capture = await asyncio.to_thread(throughput.capture, pages, directory, third.key)
    serve = await throughput.serve(machines, newest.manifest, third.key, directory)

    growth = await _chain(second, many)
    template = await stage.store.read(lambda c: _template(c, AgentVersion(deployed["version"])))
    template_peers = {
        name: await peer.template_bytes(machines, template, directory, way)
        for name, way, _, _ in PEERS
    }
    stage.tell("what sealing costs")
    memory = await asyncio.to_thread(sealing.memory_of, machines.store, template.manifest)
    cost = await asyncio.to_thread(sealing.measure, memory, directory)
    for worker in workers:
        await worker.stop()
    half = await _collect_half(second)

    bytes_p50 = int(percentile(small.bytes, 0.5))
    shape = machines.shape(memory_mib=memory_mib, disk_mib=source.disk_mib, deps="")
    measured = Measured(
        template_bytes=deployed["template_bytes"] or 0,
        template_pages=_fresh_pages(template),
        small=small,
        small_pages=int(percentile(await _pages_of_small_steps(first), 0.5)),
        prepare_ms=prepare_ms,
        engine_pause_ms=engine_pause_ms,
        durable_ms=await asyncio.to_thread(_durable_ms, directory, bytes_p50),
        thaw_ms=thaw_ms,
        ten_steps_bytes=ten_steps,
        ten_steps_pages=ten_steps_pages,
        learned_ms=learned_ms,
        unlearned_ms=unlearned_ms,
        fill_bytes=pages.nbytes,
        fill_freeze_ms=[each.freeze_ms for each in fills],
        fill_snapshot_bytes=[each.bytes for each in fills],
        growth=growth,
        gc=half,
        capture=capture,
        serve=serve,
        sealing=cost,
        machine_bytes=machine_bytes,
        pushed_bytes=pushed_bytes,
        peers=peers,
        fill_peers=fill_peers,
        template_peers=template_peers,
    )
    return Report(
        engine=shape.engine,
        engine_version=shape.engine_version,
        accel=shape.accel,
        memory_mib=memory_mib,
        encrypted=first.key is not None,
        took_s=time.perf_counter() - started,
        figures=bars.figures(measured),
    )


class _Worker:
    """A run of chores.py, asleep whenever nothing here awaits it."""

    def __init__(
        self, stage: Stage, version: AgentVersion, run: RunId, key: Key | None, sleeper: Sleeper
    ) -> None:
        self.stage, self.version, self.run, self.key = stage, version, run, key
        self._sleeper = sleeper
        self._notes = 0

    @classmethod
    async def start(cls, stage: Stage, version: str, *, study: int) -> _Worker:
        run = await stage.start(version, study=study)
        sleeper = Sleeper(stage, run)
        await sleeper.fall_asleep()
        key = await SealingKeys(stage.home, stage.store, on=False).find(run)
        return cls(stage, AgentVersion(version), run, key, sleeper)

    async def do(self, chore: str, count: int, *, cold: bool = False) -> Slept:
        """Wake it for a chore. As after a wait of seconds, a spare machine stands ready."""
        self.stage.tell(f"{chore} {count}{', cold' if cold else ''}")
        await self.stage.service.machines.settled()
        if cold:
            await make_cold(self.stage.service)
        await self._sleeper.answer({"chore": chore, "count": count})
        self._notes += {"note": 1, "checkpoints": count}.get(chore, 0)
        return await self._sleeper.fall_asleep()

    async def stop(self) -> None:
        """Let it end, and see that it lost nothing: else its figures are worth nothing."""
        row = await self._sleeper.end({"chore": "stop"})
        if row.result != {"notes": self._notes, "intact": True}:
            raise InternalError(
                f"the agent ended as {row.state.value} with {row.result or row.error}: "
                f"it should have {self._notes} notes, intact"
            )

    async def snapshots(self) -> list[SnapshotRow]:
        """Oldest first."""
        newest_first = await self.stage.store.read(lambda c: snapshots.list_snapshots(c, self.run))
        return newest_first[::-1]

    async def newest(self) -> SnapshotRow:
        return (await self.snapshots())[-1]

    @asynccontextmanager
    async def awake(
        self,
        snapshot: SnapshotRow,
        *,
        cold: bool = False,
        lazily: bool = False,
        push: bool = True,
    ) -> AsyncIterator[tuple[Live, float, float]]:
        """A machine of a snapshot that no run knows of; how many ms its restore took, and after
        that its thaw. `lazily`: from the pager, as where no warm machine is; `push` is of that."""
        machines = self.stage.service.machines
        link = LinkState.from_json(snapshot.link or {})
        await machines.settled()
        if cold:
            await make_cold(self.stage.service)
        started = time.perf_counter()
        version = None if lazily else self.version
        frozen = Frozen(snapshot.manifest, link, self.key)
        live = await machines.restore(frozen, version=version, push=push)
        try:
            restored = time.perf_counter()
            epoch = Epoch(snapshot.epoch + 1)
            await thaw(live.guest, self.run, epoch, started=True, journal=[])
            thawed = time.perf_counter()
            if lazily:
                machines.pool.refill(live.shape)
            else:
                template = await self.stage.store.read(lambda c: _template(c, self.version))
                base = Base(template.manifest, LinkState.from_json(template.link or {}))
                await machines.get_ready(live, self.version, base)
            yield live, (restored - started) * 1000, (thawed - restored) * 1000
        finally:
            await machines.discard(live)

    async def peer(self, name: str, way: peer.Way, cycles: int) -> Samples:
        return await peer.measure(
            self.stage.service.machines,
            self.run,
            await self.newest(),
            self.key,
            cycles,
            self.stage.home.run,
            lambda cycle: self.stage.tell(f"{name}: {cycle + 1} of {cycles}"),
            way,
        )


async def _small_steps(worker: _Worker) -> Slices:
    slept = [
        (bool(cycle % 2), await worker.do("note", cycle, cold=bool(cycle % 2)))
        for cycle in range(CYCLES)
    ]
    return Slices(
        pause_ms=[each.pause_ms for _, each in slept],
        freeze_ms=[each.freeze_ms for _, each in slept],
        bytes=[each.bytes for _, each in slept],
        warm_ms=[each.resume_ms for cold, each in slept if not cold],
        cold_ms=[each.resume_ms for cold, each in slept if cold],
    )


async def _pages_of_small_steps(worker: _Worker) -> list[int]:
    # The first was taken before any of them, the last after the modules were imported.
    rows = await worker.snapshots()
    return [_fresh_pages(row) for row in rows[1 : CYCLES + 1]]


def _fresh_pages(snapshot: SnapshotRow) -> int:
    """Pages that the one before does not have, those found elsewhere among them."""
    pages = snapshot.detail["pages"]
    return sum(pages[kind] for kind in ("dup", "image", "xor", "plain"))


async def _restored_cold(worker: _Worker) -> tuple[list[float], list[float], float]:
    """Ms of cold, lazy restores with and without their working set pushed, in turns; and the least
    that the guest's own part took in a warm machine."""
    newest = await worker.newest()
    totals: dict[bool, list[float]] = {True: [], False: []}
    thaws = []
    for turn in range(2 * RESTORES):
        push = not turn % 2
        worker.stage.tell(f"cold restore {turn + 1} of {2 * RESTORES}")
        async with worker.awake(newest, cold=True, lazily=True, push=push) as (
            _,
            restore_ms,
            thaw_ms,
        ):
            totals[push].append(restore_ms + thaw_ms)
        async with worker.awake(newest) as (_, _, thaw_ms):
            thaws.append(thaw_ms)
    return totals[True], totals[False], percentile(thaws, 0.5)


async def _least_of_a_freeze(worker: _Worker) -> tuple[float, float]:
    """Ms that the guest needs to make itself ready, and that a pause cannot be shorter than: the
    engine stops, and hands over its devices' state."""
    prepared, taken = [], []
    async with worker.awake(await worker.newest()) as (live, _, _):
        for _ in range(PREPARES):
            await asyncio.sleep(MACHINE.grace_s)
            started = time.perf_counter()
            live.guest.say(names.PREPARE)
            await live.guest.hear(names.PREPARED, within_s=PREPARE_LIMIT_S)
            prepared.append((time.perf_counter() - started) * 1000)
            resume(live.guest)
        for _ in range(PROBES):
            started = time.perf_counter()
            await live.machine.pause()
            await live.machine.device_state()
            taken.append((time.perf_counter() - started) * 1000)
            await live.machine.resume()
    return percentile(prepared, 0.5), percentile(taken, 0.5)


async def _side_by_side(workers: list[_Worker]) -> tuple[float, int]:
    """Bytes of memory for each machine after the first, and how many of them are pushed pages."""
    totals, pushed = [], 0
    async with AsyncExitStack() as all_awake:
        lives: list[Live] = []
        for worker in workers:
            live, _, _ = await all_awake.enter_async_context(worker.awake(await worker.newest()))
            lives.append(live)
            await worker.stage.service.machines.settled()
            taken = [await _memory_of(worker.stage, each) for each in lives]
            totals.append(sum(total for total, _ in taken))
            pushed = max(pushed for _, pushed in taken)
    return (totals[-1] - totals[0]) / (len(totals) - 1), pushed


async def _memory_of(stage: Stage, live: Live) -> tuple[int, int]:
    """What a machine takes of the host's memory: its share of what its process maps, and the page
    cache of its slot that it does not map; and how much of that was pushed."""
    stats = await stage.service.machines.pager.stats(live.name)
    cached = stats["pushed"] + sum(count for _, count in stats["faults"])
    changed = await asyncio.to_thread(live.machine.changed_memory)
    mapped = len(live.machine.touched_memory()) - len(changed)
    unmapped = max(0, cached - mapped)
    return _proportional(live.machine.pid) + unmapped * PAGE, stats["pushed"] * PAGE


def _proportional(pid: int) -> int:
    """Bytes of a process's proportional set (proc_pid_smaps_rollup(5), Pss)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "Pss":
            return int(value.split()[0]) * 1024
    raise InternalError(f"the kernel does not say what memory process {pid} takes")


def _new_pages(stage: Stage, snapshot: SnapshotRow, key: Key | None) -> Pages:
    """The pages of memory that are in a snapshot's own layer, which is its last."""
    store = stage.service.machines.store
    manifest = store.load(snapshot.manifest, key)
    memory = manifest.regions["memory"]
    own = (layer_numbers(memory.refs) == len(manifest.layers)) & (memory.bases == 0)
    return store.reader(manifest, FrameCache(0), key).pages("memory", np.flatnonzero(own))


async def _chain(worker: _Worker, many: int) -> Growth:
    """`many` snapshots more of the run, and what the last of them are like."""
    before = len(await worker.snapshots())
    for done in range(0, many, CHAIN_LINKS):
        await worker.do("checkpoints", min(CHAIN_LINKS, many - done))
    rows = await worker.snapshots()
    links, half = rows[before:], (len(rows) - before) // 2
    store = worker.stage.service.machines.store
    manifest = store.manifest_bytes(links[-1].manifest)
    opened = [_ms(lambda: store.load(links[-1].manifest, worker.key)) for _ in range(PROBES)]
    depth_ms: dict[int, list[float]] = {depth: [] for depth in DEPTHS if depth <= len(rows)}
    for turn in range(RESTORES):
        worker.stage.tell(f"restores at depths, {turn + 1} of {RESTORES}")
        for depth, taken in depth_ms.items():
            async with worker.awake(rows[depth - 1]) as (_, restore_ms, thaw_ms):
                taken.append(restore_ms + thaw_ms)
    return Growth(
        snapshots=len(links),
        bytes=sum(row.bytes for row in links),
        changed_bytes=_changed_bytes(links),
        second_half=_per_changed_byte(links[half:]) / _per_changed_byte(links[:half]),
        manifest_bytes=len(manifest),
        manifest_open_ms=percentile(opened, 0.5),
        depth_ms=depth_ms,
        depth_frames={
            depth: _hot_frames(store.load(rows[depth - 1].manifest, worker.key))
            for depth in depth_ms
        },
    )


def _hot_frames(manifest: Manifest) -> int:
    memory = manifest.regions["memory"]
    refs = np.concatenate((memory.refs[manifest.hot], memory.bases[manifest.hot]))
    return len(np.unique(refs[refs != 0] // FRAME_PAGES))


def _changed_bytes(rows: list[SnapshotRow]) -> int:
    return sum(_fresh_pages(row) for row in rows) * PAGE


def _per_changed_byte(rows: list[SnapshotRow]) -> float:
    return sum(row.bytes for row in rows) / _changed_bytes(rows)


async def _collect_half(worker: _Worker) -> Gc:
    """Every other snapshot of the run is no longer kept, and collected; the rest must be whole."""
    stage, store = worker.stage, worker.stage.service.machines.store
    rows = await worker.snapshots()
    stage.tell(f"collecting {len(rows[::2])} snapshots")
    started = time.perf_counter()

    def reclaim(c: Connection) -> set[str]:
        snapshots.reclaim(c, [row.id for row in rows[::2]], time.time())
        return {row.manifest for row in snapshots.live_snapshots(c)}

    roots = await stage.store.write(reclaim)
    swept = await asyncio.to_thread(gc.collect, store, roots, before=time.time())
    taken_ms = (time.perf_counter() - started) * 1000
    if problems := await asyncio.to_thread(store.verify, rows[1::2][-1].manifest, worker.key):
        raise InternalError(f"the collection took what was needed: {'; '.join(problems)}")
    return Gc(taken_ms, len(swept.manifests), len(swept.layers), swept.bytes)


def _durable_ms(directory: Path, count: int) -> float:
    """What it takes to write so many bytes and have them, and their name, on the disk."""
    path, data, taken = directory / "durable", os.urandom(count), []
    for _ in range(PROBES):
        taken.append(_ms(lambda: _write_durably(path, data)))
        path.unlink()
    return percentile(taken, 0.5)


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _template(c: Connection, version: AgentVersion) -> SnapshotRow:
    template = agents.get_agent(c, version).template
    assert template is not None
    return snapshots.get_snapshot(c, template)


def _remarks(report: Report) -> str:
    how = "KVM" if report.accel == "kvm" else "emulation (no usable KVM)"
    return (
        f"{processor()}, {words.count(os.cpu_count() or 1, 'core')}, {how}, {report.engine} "
        f"{report.engine_version}, guest of {report.memory_mib} MiB, snapshots of runs "
        f"{'encrypted' if report.encrypted else 'in the clear'}; {report.took_s:.0f} s. "
        "QEMU: the same guest, migrated to a file, through zstd -1 -T2 or plain, always whole. "
        "What a machine resumed by it takes is at least the plain file."
    )
