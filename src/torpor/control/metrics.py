"""What the server counts and measures, for Prometheus: all definitions are here.

What happens is observed as it happens, since this server's start. What is so at a moment is asked
of the log, the machines and the pager when somebody looks (`Moment`). The pager's counters begin
with the pager, which may be older than the server, or younger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from torpor.contextlog.totals import Totals

_MS = (5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 15000)

# The pager's statistics that are counters: their names in `pager.control`, and what they are.
_PAGER = {
    "reads": ("reads", "Reads of machines' memory and disks that the pager served"),
    "bytes": ("read_bytes", "Bytes of these"),
    "frames": ("frames", "Frames decompressed"),
    "hits": ("cache_hits", "Frames found decompressed in the pager's cache"),
    "misses": ("cache_misses", "Frames not found there"),
    "pushed": ("pushed_pages", "Pages pushed ahead of a resume"),
    "damaged": ("damaged", "Machines whose snapshot was found damaged when they read it"),
}


@dataclass(frozen=True)
class Moment:
    log: Totals
    appended: int  # entries, since the server's start
    machines: int
    pooled: int
    pager: Mapping[str, float]  # its totals; empty when it does not answer


class Metrics:
    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._resume_ms = Histogram(
            "torpor_resume_ms",
            "From the decision to resume a run, or to start it, until its machine is up",
            buckets=_MS,
            registry=self._registry,
        )
        self._freeze_ms = Histogram(
            "torpor_freeze_ms",
            "From the decision to take a snapshot until it is recorded",
            buckets=_MS,
            registry=self._registry,
        )
        self._model_calls = Counter(
            "torpor_model_calls",
            "Model calls made, by the status of their answers",
            ["status"],
            registry=self._registry,
        )
        self._freed_bytes = Counter(
            "torpor_gc_freed_bytes",
            "Bytes of files that garbage collections removed",
            registry=self._registry,
        )

    def resumed(self, ms: float) -> None:
        self._resume_ms.observe(ms)

    def frozen(self, ms: float) -> None:
        self._freeze_ms.observe(ms)

    def model_called(self, status: int) -> None:
        self._model_calls.labels(str(status)).inc()

    def freed(self, bytes: int) -> None:
        self._freed_bytes.inc(bytes)

    def at(self, moment: Moment) -> Collector:
        """All there is to tell now."""
        return _Told([*self._registry.collect(), *_families(moment)])


class _Told(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _families(moment: Moment) -> Iterable[Metric]:
    runs = GaugeMetricFamily("torpor_runs", "Runs by state", labels=["state"])
    for state, count in moment.log.runs.items():
        runs.add_metric([state], count)
    machines = GaugeMetricFamily(
        "torpor_machines", "Machines that carry a run, or wait for one", labels=["of"]
    )
    machines.add_metric(["runs"], moment.machines)
    machines.add_metric(["pool"], moment.pooled)
    yield from (runs, machines)
    for name, what, value in (
        ("torpor_waits_open", "Waits that are open", moment.log.waits_open),
        ("torpor_snapshots", "Snapshots and templates that are kept", moment.log.snapshots),
        ("torpor_snapshot_bytes", "Bytes that these took when stored", moment.log.snapshot_bytes),
    ):
        yield GaugeMetricFamily(name, what, value)
    yield CounterMetricFamily("torpor_log_entries", "Entries appended to logs", moment.appended)
    for key, (name, what) in _PAGER.items():
        if key in moment.pager:
            yield CounterMetricFamily(f"torpor_pager_{name}", what, moment.pager[key])
