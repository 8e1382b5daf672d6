"""Figures beside a peer's, beside the bar they are held to, and beside what bounds them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torpor.bench import sealing
from torpor.bench.sealing import Cost
from torpor.bench.stats import Samples, percentile
from torpor.bench.throughput import TURNS, Rates
from torpor.web import words

Unit = Literal["ms", "bytes", "MB/s", "ratio", "1/s", "times", "count"]
# Of these more is better.
_AT_LEAST: tuple[Unit, ...] = ("MB/s", "1/s", "times")

_SHOW: Mapping[Unit, Callable[[float], str]] = {
    "ms": lambda ms: _time(ms),
    "bytes": words.size,
    "MB/s": lambda rate: f"{rate:.0f} MB/s",
    "ratio": lambda ratio: f"{ratio:.2f}",
    "1/s": lambda rate: f"{rate:,.0f}/s",
    "times": lambda times: f"{times:.1f} times",
    "count": lambda count: f"{count:,.0f}",
}


def _time(ms: float) -> str:
    if ms < 1:
        return f"{ms * 1000:.0f} µs"
    return f"{ms:.1f} ms" if ms < 99.95 else words.duration(ms / 1000)


# The peers' names.
ZSTD, PLAIN = "QEMU, zstd -1", "QEMU, plain"

_DIGITS: Mapping[Unit, int] = {
    "ms": 3,
    "bytes": 0,
    "MB/s": 1,
    "ratio": 4,
    "1/s": 1,
    "times": 2,
    "count": 0,
}


@dataclass(frozen=True)
class Figure:
    """One figure; what stands beside it has its unit. `bar` is the most it may be, of a rate the
    least. `bound` says what it cannot be better than, `bound_value` how much that is, where this
    run measured it."""

    key: str
    title: str
    unit: Unit
    value: float
    bound: str
    samples: int = 1
    peers: Mapping[str, float] = field(default_factory=dict)
    bar: float | None = None
    bound_value: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it meets its bar; None without one."""
        if self.bar is None:
            return None
        return self.value >= self.bar if self.unit in _AT_LEAST else self.value <= self.bar

    @property
    def distance(self) -> float | None:
        """How many times better it could be, as far as this bound goes."""
        if not self.bound_value or not self.value:
            return None
        ratio = self.value / self.bound_value
        return 1 / ratio if self.unit in _AT_LEAST else ratio

    def to_json(self) -> dict[str, Any]:
        def rounded(value: float | None) -> float | None:
            if value is None:
                return None
            return round(value, _DIGITS[self.unit]) if _DIGITS[self.unit] else round(value)

        return {
            "value": rounded(self.value),
            "unit": self.unit,
            "samples": self.samples,
            "peers": {name: rounded(value) for name, value in self.peers.items()},
            "bar": rounded(self.bar),
            "met": self.met,
            "bound": self.bound,
            "bound_value": rounded(self.bound_value),
            "distance": None if self.distance is None else round(self.distance, 2),
        }

    def cells(self) -> tuple[str, str, str, str, str]:
        """Title, value, peers, bar and bound, as people read them."""
        show = _SHOW[self.unit]
        bar = ""
        if self.bar is not None:
            sign, mark = "≥" if self.unit in _AT_LEAST else "≤", "✓" if self.met else "✗"
            bar = f"{mark} {sign} {show(self.bar)}"
        bound = self.bound
        if self.bound_value is not None and self.distance is not None:
            bound += f": {show(self.bound_value)}, {self.distance:.1f} times"
        peers = ", ".join(f"{show(value)} {name}" for name, value in self.peers.items())
        return self.title, show(self.value), peers, bar, bound


@dataclass(frozen=True)
class Slices:
    """Samples, in ms and bytes, of small steps: a note, then asleep."""

    pause_ms: list[float]
    freeze_ms: list[float]
    bytes: list[int]
    warm_ms: list[float]
    cold_ms: list[float]


@dataclass(frozen=True)
class Growth:
    """What `snapshots` snapshots of one run, one a small step, added to the store."""

    snapshots: int
    bytes: int
    changed_bytes: int
    second_half: float  # bytes per changed byte in the second half of them, over the first half
    manifest_bytes: int  # of the last one
    manifest_open_ms: float
    depth_ms: Mapping[int, list[float]]  # restore time by how many snapshots it is made of
    depth_frames: Mapping[int, int]  # that hold the working set there


@dataclass(frozen=True)
class Gc:
    ms: float
    manifests: int
    layers: int
    bytes: int


@dataclass(frozen=True)
class Measured:
    """All that a run of `torpor bench snapshots` found. Peers are by name."""

    template_bytes: int
    template_pages: int
    small: Slices
    small_pages: int  # that changed, at the median
    prepare_ms: float  # until the guest has made itself ready to be frozen
    engine_pause_ms: float  # the engine's own: stand still, hand over the devices' state
    durable_ms: float  # a small snapshot's bytes written and synced, and its name
    thaw_ms: float  # the guest's own part of a warm resume
    ten_steps_bytes: list[int]
    ten_steps_pages: Mapping[str, int]  # of one of them: what became of pages, by kind
    learned_ms: list[float]
    unlearned_ms: list[float]
    fill_bytes: int
    fill_freeze_ms: list[float]
    fill_snapshot_bytes: list[int]
    growth: Growth
    gc: Gc
    capture: Rates
    serve: Rates
    sealing: Cost
    machine_bytes: float
    pushed_bytes: int
    peers: Mapping[str, Samples]
    fill_peers: Mapping[str, Samples]
    template_peers: Mapping[str, int]


def figures(m: Measured) -> tuple[Figure, ...]:
    """What was found, in the order it is shown."""

    def median(samples: list[float] | list[int]) -> float:
        return percentile(samples, 0.5)

    def peers(name: str, of: Mapping[str, Samples] = m.peers) -> dict[str, float]:
        return {way: median(getattr(samples, name)) for way, samples in of.items()}

    small = m.small
    warm, cold = median(small.warm_ms), median(small.cold_ms)
    fill_freeze = median(m.fill_freeze_ms)
    depths = {depth: median(samples) for depth, samples in m.growth.depth_ms.items()}
    shallow = depths[min(depths)]
    per_byte = m.growth.bytes / m.growth.changed_bytes
    return (
        Figure(
            key="pause_ms",
            title="small step: pause p50",
            unit="ms",
            value=median(small.pause_ms),
            samples=len(small.pause_ms),
            peers=peers("pause_ms"),
            bar=12,
            bound="QEMU's stop and device state alone",
            bound_value=m.engine_pause_ms,
        ),
        Figure(
            key="freeze_ms",
            title="small step: freeze p50",
            unit="ms",
            value=median(small.freeze_ms),
            samples=len(small.freeze_ms),
            peers=peers("freeze_ms"),
            bar=80,
            bound=f"the guest making itself ready ({m.prepare_ms:.0f} ms), "
            f"QEMU's stop, and syncs of snapshot and log ({m.durable_ms:.1f} ms each)",
            bound_value=m.prepare_ms + m.engine_pause_ms + 2 * m.durable_ms,
        ),
        Figure(
            key="snapshot_bytes",
            title="small step: snapshot p50",
            unit="bytes",
            value=median(small.bytes),
            samples=len(small.bytes),
            peers=peers("snapshot_bytes"),
            bar=80_000,
            bound=f"{m.small_pages} pages that the guest's kernel and Python changed, compressed",
        ),
        Figure(
            key="ten_steps_bytes",
            title="ten steps, imports and files: snapshot p50",
            unit="bytes",
            value=median(m.ten_steps_bytes),
            samples=len(m.ten_steps_bytes),
            bar=500_000,
            bound="pages that imports and files changed, compressed: "
            + ", ".join(f"{m.ten_steps_pages[kind]} {kind}" for kind in ("plain", "xor", "dup")),
        ),
        Figure(
            key="resume_warm_ms",
            title="resume, warm: p50",
            unit="ms",
            value=warm,
            samples=len(small.warm_ms),
            peers=peers("resume_warm_ms"),
            bar=100,
            bound="the guest's own way back, all its pages at hand",
            bound_value=m.thaw_ms,
        ),
        Figure(
            key="resume_warm_p99_ms",
            title="resume, warm: p99",
            unit="ms",
            value=percentile(small.warm_ms, 0.99),
            samples=len(small.warm_ms),
            bar=2 * warm,
            bound="what else the host's cores do",
        ),
        Figure(
            key="resume_cold_ms",
            title="resume, cold: p50",
            unit="ms",
            value=cold,
            samples=len(small.cold_ms),
            peers=peers("resume_cold_ms"),
            bar=140,
            bound="a warm one, and reading the working set's frames from the disk",
            bound_value=warm,
        ),
        Figure(
            key="resume_cold_p99_ms",
            title="resume, cold: p99",
            unit="ms",
            value=percentile(small.cold_ms, 0.99),
            samples=len(small.cold_ms),
            bar=2 * cold,
            bound="the disk, and what else the host's cores do",
        ),
        Figure(
            key="learned_ms",
            title="cold restore, working set pushed: p50",
            unit="ms",
            value=median(m.learned_ms),
            samples=len(m.learned_ms),
            bound="the guest's own way back",
            bound_value=m.thaw_ms,
        ),
        Figure(
            key="unlearned_ms",
            title="cold restore, page by page: p50",
            unit="ms",
            value=median(m.unlearned_ms),
            samples=len(m.unlearned_ms),
            bound="a fault at a time through FUSE",
            bound_value=median(m.learned_ms),
        ),
        Figure(
            key="template_bytes",
            title="template",
            unit="bytes",
            value=m.template_bytes,
            peers=m.template_peers,
            bar=16_000_000,
            bound=f"{m.template_pages} pages of a kernel and a Python that run, compressed",
        ),
        Figure(
            key="fill_freeze_ms",
            title="100 MB changed: freeze p50",
            unit="ms",
            value=fill_freeze,
            samples=len(m.fill_freeze_ms),
            peers=peers("freeze_ms", m.fill_peers),
            bar=1500,
            bound="zstd -1 -T2 of as many bytes, unsynced",
            bound_value=m.fill_bytes / m.capture.peer / 1000,
        ),
        Figure(
            key="fill_snapshot_bytes",
            title="100 MB changed: snapshot p50",
            unit="bytes",
            value=median(m.fill_snapshot_bytes),
            samples=len(m.fill_snapshot_bytes),
            peers=peers("snapshot_bytes", m.fill_peers),
            bound="four bits a byte: it is random hexadecimal text",
            bound_value=m.fill_bytes / 2,
        ),
        *(
            Figure(
                key=f"depth_{depth}_ms",
                title=f"restore, warm, {words.count(depth, 'snapshot')} deep: p50",
                unit="ms",
                value=value,
                samples=len(m.growth.depth_ms[depth]),
                bound=f"{m.growth.depth_frames[depth]} frames hold its working set; least depth",
                bound_value=shallow,
            )
            for depth, value in depths.items()
        ),
        Figure(
            key="manifest_bytes",
            title=f"manifest, {words.count(m.growth.snapshots, 'snapshot')} deep",
            unit="bytes",
            value=m.growth.manifest_bytes,
            bar=64 << 10,
            bound="a name for each layer, six numbers for each run of pages",
        ),
        Figure(
            key="manifest_open_ms",
            title="opening it: p50",
            unit="ms",
            value=m.growth.manifest_open_ms,
            bar=5,
            bound="a reference of 16 bytes for each page",
        ),
        Figure(
            key="growth_ratio",
            title=f"store's growth over {m.growth.snapshots} snapshots, bytes a changed byte",
            unit="ratio",
            value=per_byte,
            samples=m.growth.snapshots,
            bound=f"{words.size(m.growth.bytes)} for {words.size(m.growth.changed_bytes)} changed",
        ),
        Figure(
            key="growth_linearity",
            title="that, its second half over its first",
            unit="ratio",
            value=m.growth.second_half,
            samples=m.growth.snapshots,
            bound="linear is 1",
            bound_value=1,
        ),
        Figure(
            key="gc_ms",
            title="collecting half of them",
            unit="ms",
            value=m.gc.ms,
            bar=5000,
            bound=f"{words.count(m.gc.manifests, 'manifest')} and "
            f"{words.count(m.gc.layers, 'layer')} unlinked, all other manifests read",
        ),
        Figure(
            key="capture_mb_s",
            title="capture",
            unit="MB/s",
            value=m.capture.ours,
            samples=TURNS,
            peers={"zstd -1 -T2": m.capture.peer},
            bar=m.capture.peer / 2,
            bound="zstd -1 -T2 of the same bytes, unsynced",
            bound_value=m.capture.peer,
        ),
        Figure(
            key="serve_mb_s",
            title="serve",
            unit="MB/s",
            value=m.serve.ours,
            samples=TURNS,
            peers={"plain copy": m.serve.peer},
            bar=m.serve.peer / 2,
            bound="FUSE asks Python for each MiB; copying a file from the page cache",
            bound_value=m.serve.peer,
        ),
        Figure(
            key="sealed_write_ms",
            title=f"encryption: a layer of {words.size(m.sealing.bytes)}, sealed",
            unit="ms",
            value=m.sealing.write_sealed_ms.p50,
            samples=sealing.TURNS,
            bound="the same in the clear",
            bound_value=m.sealing.write_ms.p50,
        ),
        Figure(
            key="sealed_frame_ms",
            title="encryption: a frame read, sealed",
            unit="ms",
            value=m.sealing.frame_sealed_us.p50 / 1000,
            bound="the same in the clear",
            bound_value=m.sealing.frame_us.p50 / 1000,
        ),
        Figure(
            key="machine_bytes",
            title="memory of each machine more, resumed",
            unit="bytes",
            value=m.machine_bytes,
            peers={name: each for name, each in peers("snapshot_bytes").items() if name == PLAIN},
            bound="the working set, pushed; the rest is QEMU's own",
            bound_value=m.pushed_bytes,
        ),
    )
