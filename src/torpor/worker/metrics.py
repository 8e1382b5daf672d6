"""What the server counts and measures, for Prometheus: all definitions are here.

What happens is observed as it happens, since this server's start. What is so at a moment is read
from the log, the machines and the pager when somebody looks (`Moment`). The pager's counters begin
with the pager, which may be older than the server, or younger.
"""

from __future__ import annotations

from collections import Counter as Counting
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from torpor.contextlog.queues import STATES, QueueMoment
from torpor.contextlog.totals import Totals
from torpor.core.prices import Prices
from torpor.core.replies import Reply

_MS = (5, 10, 25, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 15000)

# The pager's statistics that are counters: their names in `pager.control`, and what they are.
_PAGER = {
    "reads": ("reads", "Reads of machines' memory and disks that the pager served"),
    "bytes": ("read_bytes", "Bytes of these reads"),
    "frames": ("frames", "Frames decompressed"),
    "hits": ("cache_hits", "Frames found decompressed in the pager's cache"),
    "misses": ("cache_misses", "Frames not found in the pager's cache"),
    "pushed": ("pushed_pages", "Pages pushed ahead of a resume"),
    "damaged": ("damaged", "Machines whose snapshot was found damaged when they read it"),
}


_TOKENS = ("input", "cached", "output")


@dataclass(frozen=True)
class Moment:
    log: Totals
    appended: int  # entries, since the server's start
    machines: int
    pooled: int
    pager: Mapping[str, float]  # its totals; empty when it does not answer
    queues: Sequence[QueueMoment]
    memory: Mapping[str, int | None]  # of the host, for runs (`control.engines.Engines.memory`)


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
            "Model calls, by the status of their replies",
            ["status"],
            registry=self._registry,
        )
        self._unmeasured = Counter(
            "torpor_model_calls_unmeasured",
            "Model calls whose replies had no token counts; tokens and cost leave them out",
            ["model"],
            registry=self._registry,
        )
        self._tokens: Counting[tuple[str, str]] = Counting()  # (model, kind)
        self._freed_bytes = Counter(
            "torpor_gc_freed_bytes",
            "Bytes of files that garbage collections removed",
            registry=self._registry,
        )

    def resumed(self, ms: float) -> None:
        self._resume_ms.observe(ms)

    def frozen(self, ms: float) -> None:
        self._freeze_ms.observe(ms)

    def model_called(self, reply: Reply) -> None:
        self._model_calls.labels(str(reply.status)).inc()
        if not reply.measured:
            self._unmeasured.labels(reply.model or "").inc()
        for kind in _TOKENS:
            tokens = getattr(reply, f"{kind}_tokens")
            if tokens is not None:
                self._tokens[reply.model or "", kind] += tokens

    def freed(self, bytes: int) -> None:
        self._freed_bytes.inc(bytes)

    def at(self, moment: Moment, prices: Prices) -> Collector:
        """All there is to tell now."""
        families = (_families(moment), _of_queues(moment.queues), _of_models(self._tokens, prices))
        return _Collected([*self._registry.collect(), *chain(*families)])


class _Collected(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _of_models(tokens: Mapping[tuple[str, str], int], prices: Prices) -> Iterable[Metric]:
    counted = CounterMetricFamily(
        "torpor_model_tokens",
        "Tokens of model calls, as their replies say; cached ones are part of the input",
        labels=["model", "kind"],
    )
    cost = CounterMetricFamily(
        "torpor_model_cost_usd", "Cost of model calls by the table of prices", labels=["model"]
    )
    for (model, kind), number in sorted(tokens.items()):
        counted.add_metric([model, kind], number)
    for model in sorted({model for model, _ in tokens}):
        took = [tokens.get((model, kind), 0) for kind in _TOKENS]
        if (dollars := prices.cost(model, *took)) is not None:
            cost.add_metric([model], dollars)
    yield from (counted, cost)


def _of_queues(queues: Sequence[QueueMoment]) -> Iterable[Metric]:
    runs = GaugeMetricFamily(
        "torpor_queue_runs", "Unfinished runs of a queue by state", labels=["queue", "state"]
    )
    waiting = GaugeMetricFamily(
        "torpor_queue_waiting",
        "Runs of a queue that want a machine, to start or to go on",
        labels=["queue"],
    )
    longest = GaugeMetricFamily(
        "torpor_queue_waiting_seconds",
        "How long the longest waiting run of a queue has waited to start",
        labels=["queue"],
    )
    limit = GaugeMetricFamily(
        "torpor_queue_concurrency",
        "How many runs of a queue may have a machine at once",
        labels=["queue"],
    )
    paused = GaugeMetricFamily(
        "torpor_queue_paused", "1 while the queue is paused", labels=["queue"]
    )
    for each in queues:
        name = each.row.name
        for state in STATES:
            runs.add_metric([name, str(state)], each.figures.get(state, 0))
        waiting.add_metric([name], each.waiting.runs)
        longest.add_metric([name], each.waiting.longest_s)
        if each.row.concurrency is not None:
            limit.add_metric([name], each.row.concurrency)
        paused.add_metric([name], each.row.paused)
    yield from (runs, waiting, longest, limit, paused)


def _families(moment: Moment) -> Iterable[Metric]:
    runs = GaugeMetricFamily("torpor_runs", "Runs by state", labels=["state"])
    for state, count in moment.log.runs.items():
        runs.add_metric([state], count)
    machines = GaugeMetricFamily(
        "torpor_machines", "Machines that carry a run, or wait for one", labels=["of"]
    )
    machines.add_metric(["runs"], moment.machines)
    machines.add_metric(["pool"], moment.pooled)
    memory = GaugeMetricFamily(
        "torpor_memory_mib",
        "Memory that runs may take of the host, and that they take",
        labels=["of"],
    )
    for of, key in (("host", "memory_mib"), ("runs", "memory_taken_mib")):
        if (mib := moment.memory[key]) is not None:
            memory.add_metric([of], mib)
    yield from (runs, machines, memory)
    for name, what, value in (
        ("torpor_waits_open", "Waits that are open", moment.log.waits_open),
        ("torpor_snapshots", "Snapshots and templates that are kept", moment.log.snapshots),
        (
            "torpor_snapshot_bytes",
            "Bytes of these when they were stored",
            moment.log.snapshot_bytes,
        ),
    ):
        yield GaugeMetricFamily(name, what, value)
    yield CounterMetricFamily("torpor_log_entries", "Entries appended to logs", moment.appended)
    for key, (name, what) in _PAGER.items():
        if key in moment.pager:
            yield CounterMetricFamily(f"torpor_pager_{name}", what, moment.pager[key])
