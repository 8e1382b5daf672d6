"""The figures of `torpor bench control`, beside their bars. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from torpor.bench.bars import Figure
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
    )
