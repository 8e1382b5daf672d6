"""`torpor bench sleep`: how fast an agent falls asleep and wakes, and what its sleep costs.

`asleep.py` is deployed and run on a stage (`torpor.bench.stage`); whenever its run is suspended,
it is answered. All figures of ours are those of the run's own log.

Half of the wakes are cold: the page cache of all layers, manifests and image files is dropped,
and so are the caches of the pager and of this process. Before each answer the spare machine that
the pool starts after a wake is ready, as it is in real life, where waits are longer than its
start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from torpor.bench import peer
from torpor.bench.stage import Sleeper, Stage, make_cold, perform, processor
from torpor.bench.stats import Figures, Samples, ratios
from torpor.contextlog import agents, snapshots
from torpor.contextlog.snapshots import SnapshotRow
from torpor.core.errors import InternalError
from torpor.core.ids import AgentVersion, RunId
from torpor.engine import qemu
from torpor.project.reading import read_agent
from torpor.terminal.screen import show, show_json, table
from torpor.web import words
from torpor.worker.sealing import SealingKeys

AGENT = Path(__file__).with_name("asleep.py")
PEER_CYCLES_MAX = 10


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

    def to_json(self) -> dict[str, Any]:
        return {
            "engine": self.engine,
            "accel": self.accel,
            "memory_mib": self.memory_mib,
            "cycles": self.cycles,
            **self.ours.to_json(),
            "peer": self.peer.to_json(),
            "ratio": ratios(self.ours, self.peer),
        }


def main(memory_mib: int, cycles: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr. `cycles` is at least 2: a
    warm one and a cold one. Raises TorporError."""
    peer.require_zstd()
    report = perform(lambda stage: _measure(stage, memory_mib, cycles))
    if as_json:
        show_json(report.to_json())
    else:
        show(_as_table(report))
        for line in _remarks(report):
            show(line)
    return 0


async def _measure(stage: Stage, memory_mib: int, cycles: int) -> Report:
    home, service, tell = stage.home, stage.service, stage.tell
    source = replace(read_agent(AGENT), memory_mib=memory_mib)

    def report(stage: str, message: str, fraction: float | None) -> None:
        tell(message)

    deployed = await stage.service.agents.deploy(source, report, qemu.NAME)
    run = await stage.start(deployed["version"])
    sleeper = Sleeper(stage, run)
    ours = await _sleep_and_wake(stage, sleeper, cycles)

    template, newest = await stage.store.read(
        lambda c: _template_and_newest(c, AgentVersion(deployed["version"]), run)
    )
    peer_cycles = min(cycles, PEER_CYCLES_MAX)
    tell("QEMU's own migration of the same machine")
    theirs = await peer.measure(
        service.machines,
        run,
        newest,
        await SealingKeys(home, stage.store, on=False).find(run),
        peer_cycles,
        home.run,
        lambda cycle: tell(f"QEMU's own migration, {cycle + 1} of {peer_cycles}"),
    )
    theirs_template = await peer.template_bytes(service.machines, template, home.run)
    await _check(sleeper, drafts=cycles + 1)
    shape = service.machines.shape(memory_mib=memory_mib, disk_mib=source.disk_mib, deps="")
    boot_ms, template_bytes = deployed["boot_ms"] or 0.0, deployed["template_bytes"] or 0
    return Report(
        engine=shape.engine,
        engine_version=shape.engine_version,
        accel=shape.accel,
        memory_mib=memory_mib,
        cycles=cycles,
        peer_cycles=peer_cycles,
        ours=Figures.of(ours, boot_ms=boot_ms, template_bytes=template_bytes),
        # The peer's machine was booted by the same boot.
        peer=Figures.of(theirs, boot_ms=boot_ms, template_bytes=theirs_template),
    )


async def _sleep_and_wake(stage: Stage, sleeper: Sleeper, cycles: int) -> Samples:
    samples = Samples()
    slept = await sleeper.fall_asleep()
    for cycle in range(cycles):
        samples.fell_asleep(slept.pause_ms, slept.freeze_ms, slept.bytes)
        is_cold = bool(cycle % 2)
        stage.tell(f"cycle {cycle + 1} of {cycles}, {'cold' if is_cold else 'warm'}")
        await stage.service.machines.settled()
        if is_cold:
            await make_cold(stage.service)
        await sleeper.answer(approved=True)
        slept = await sleeper.fall_asleep()
        samples.woke(slept.resume_ms, cold=is_cold)
    return samples


def _template_and_newest(
    c: Connection, version: AgentVersion, run: RunId
) -> tuple[SnapshotRow, SnapshotRow]:
    template = agents.get_agent(c, version).template
    newest = snapshots.newest_snapshot(c, run)
    assert template is not None and newest is not None
    return snapshots.get_snapshot(c, template), newest


async def _check(sleeper: Sleeper, *, drafts: int) -> None:
    """Let the agent end, and see that it lost nothing: else its figures are worth nothing."""
    row = await sleeper.end(approved=False)
    if row.result != {"drafts": drafts, "intact": True}:
        raise InternalError(
            f"after {drafts} sleeps the agent ended as {row.state.value} with "
            f"{row.result or row.error}: it should have {drafts} drafts, intact"
        )


# (title, field, how a value is shown)
_ROWS: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("boot to ready", "boot_ms", lambda ms: words.duration(ms / 1000)),
    ("template", "template_bytes", words.size),
    ("pause: until its state is fixed", "pause_ms", lambda ms: words.duration(ms / 1000)),
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
        f"{processor()}, {words.count(os.cpu_count() or 1, 'core')}, {how}, "
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
