"""The figures of `torpor bench control`, beside their bars. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torpor.bench.bars import Figure
from torpor.bench.footprint import LARGE_MIB, VERSIONS, Footprint, Frozen, Grown
from torpor.bench.stats import percentile


@dataclass(frozen=True)
class Measured:
    writers: int
    appends: int
    appends_per_s: float
    start_ms: list[float]
    wake_ms: list[float]
    sleeping: int
    idle_cpu_share: float  # of one core
    idle_bytes: int
    page_ms: list[float]
    timers: int
    timers_late_ms: float
    memory: Footprint


def figures(m: Measured) -> tuple[Figure, ...]:
    """What was found, in the order it is shown."""
    many = f"{m.sleeping:,} runs asleep"
    return (
        Figure(
            key="appends_per_s",
            title=f"appends, each durable, of {m.writers} writers",
            unit="1/s",
            value=m.appends_per_s,
            samples=m.appends,
            bar=5000,
            bound="one thread that writes; many appends share a commit",
        ),
        Figure(
            key="start_ms",
            title="a run's start accepted: p50",
            unit="ms",
            value=percentile(m.start_ms, 0.5),
            samples=len(m.start_ms),
            bar=10,
            bound="one commit",
        ),
        Figure(
            key="wake_ms",
            title="an answer, until its run resumes: p50",
            unit="ms",
            value=percentile(m.wake_ms, 0.5),
            samples=len(m.wake_ms),
            bar=20,
            bound="two commits: the answer's and the claim's",
        ),
        Figure(
            key="wake_p99_ms",
            title="an answer, until its run resumes: p99",
            unit="ms",
            value=percentile(m.wake_ms, 0.99),
            samples=len(m.wake_ms),
            bar=60,
            bound="what else the host's cores do",
        ),
        Figure(
            key="idle_cpu",
            title=f"{many}: an idle server, of a core",
            unit="ratio",
            value=m.idle_cpu_share,
            bar=0.01,
            bound="a look each half a minute, to be safe",
        ),
        Figure(
            key="idle_bytes",
            title=f"{many}: memory of the server",
            unit="bytes",
            value=m.idle_bytes,
            bar=150_000_000,
            bound="Python and its libraries: no run takes any",
        ),
        Figure(
            key="page_ms",
            title=f"{many}: a page of them: p50",
            unit="ms",
            value=percentile(m.page_ms, 0.5),
            samples=len(m.page_ms),
            bar=100,
            bound="an index, and the page's bytes",
        ),
        Figure(
            key="timers_late_ms",
            title=f"the last of {m.timers:,} timers of one second",
            unit="ms",
            value=m.timers_late_ms,
            samples=m.timers,
            bar=2000,
            bound="some statements each, and a commit for each hundred",
        ),
        *_memory(m.memory),
    )


def _memory(m: Footprint) -> Iterator[Figure]:
    yield from _grown("process", "the engine process", m.process)
    if m.machines is not None:
        yield from _grown("machine", "machines", m.machines)
    if m.freeze is not None:
        yield from _frozen("freeze", "a freeze", m.freeze)
    if m.checkpoint is not None:
        yield from _frozen("checkpoint", "a checkpoint", m.checkpoint)


def _grown(key: str, how: str, m: Grown) -> Iterator[Figure]:
    title = f"{m.runs} runs of {VERSIONS} versions, {how}"
    yield Figure(
        key=f"{key}_runs_bytes",
        title=f"{title}: memory of the server",
        unit="bytes",
        value=m.bytes,
        samples=m.runs,
        bar=250_000_000,
        bound="Python, its libraries, and what model.memory lets it keep",
    )
    yield Figure(
        key=f"{key}_runs_grown_bytes",
        title=f"{title}: of that, since half of them",
        unit="bytes",
        value=max(0, m.grown_bytes),
        bar=10_000_000,
        bound="nothing is kept of a run that has ended",
    )


def _frozen(key: str, what: str, m: Frozen) -> Iterator[Figure]:
    title = f"{what} of {LARGE_MIB} MiB that do not compress"
    yield Figure(
        key=f"{key}_peak_bytes",
        title=f"{title}: peak of the server",
        unit="bytes",
        value=m.server_bytes,
        bar=500_000_000,
        bound="some chunks of pages, however many there are",
    )
    yield Figure(
        key=f"{key}_pager_bytes",
        title=f"{title}: peak of the pager",
        unit="bytes",
        value=m.pager_bytes,
        bar=300_000_000,
        bound="its cache of frames, and 10 MB for each machine",
    )
    yield Figure(
        key=f"{key}_pause_ms",
        title=f"{title}: the pause",
        unit="ms",
        value=m.pause_ms,
        bar=1200,
        bound="a freeze copies nothing; a checkpoint its pages, once",
    )
