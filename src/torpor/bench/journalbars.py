"""The figures of `torpor bench journal`, beside their peers and bars. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torpor.bench.bars import Figure
from torpor.bench.stats import percentile

SQLITE, DBOS = "SQLite, raw", "dbos"
STEPS = 10_000  # whose recovery the bar is about


@dataclass(frozen=True)
class Ledger:
    """What became of steps whose process was killed again and again."""

    kills: int
    steps: int
    lost: int  # recorded, and not written down
    unmarked: int  # written down more often than the log says it was begun
    again: int  # marked in the log as done again
    beside: int  # steps that were under way at once


@dataclass(frozen=True)
class Measured:
    steps: int
    steps_per_s: float
    raw_per_s: float
    machine_steps: int
    machine_steps_per_s: float | None  # None: no machine runs here
    machine_tail_ms: float | None  # what recovery takes beyond a resume
    append_us: Mapping[int, float]  # median, by the log's length
    appends: int
    recovery_ms: list[float]
    wake_ms: list[float]
    overshoot_ms: list[float]
    message_bytes: int
    stored_bytes: int
    messages: int
    ledger: Ledger
    peer_steps: int
    peer_steps_per_s: float | None  # None: dbos is not installed
    peer_recovery_ms: float | None  # of STEPS steps, from that of its own


def figures(m: Measured) -> tuple[Figure, ...]:
    """What was found, in the order it is shown."""
    rate_peers = {SQLITE: m.raw_per_s}
    recovery_peers: dict[str, float] = {}
    if m.peer_steps_per_s is not None and m.peer_recovery_ms is not None:
        rate_peers[DBOS] = m.peer_steps_per_s
        recovery_peers[DBOS] = m.peer_recovery_ms
    short, long = min(m.append_us), max(m.append_us)
    ledger = m.ledger
    return tuple(
        figure
        for figure in (
            Figure(
                key="steps_per_s",
                title="durable steps, one after the other",
                unit="1/s",
                value=m.steps_per_s,
                samples=m.steps,
                peers=rate_peers,
                bar=1000,
                bound="an insert of SQLite's own, WAL, synchronous=FULL",
                bound_value=m.raw_per_s,
            ),
            None
            if m.peer_steps_per_s is None
            else Figure(
                key="steps_over_dbos",
                title=f"that, over dbos ({m.peer_steps:,} steps)",
                unit="times",
                value=m.steps_per_s / m.peer_steps_per_s,
                bar=3,
                bound="both make each step durable before the next",
            ),
            None
            if m.machine_steps_per_s is None
            else Figure(
                key="machine_steps_per_s",
                title="from a machine, over the link",
                unit="1/s",
                value=m.machine_steps_per_s,
                samples=m.machine_steps,
                bar=150,
                bound="without a machine",
                bound_value=m.steps_per_s,
            ),
            Figure(
                key="append_growth",
                title=f"an append at {long:,} entries over one at {short:,}: p50",
                unit="ratio",
                value=m.append_us[long] / m.append_us[short],
                samples=m.appends,
                bar=1.1,
                bound="the height of SQLite's trees",
                bound_value=1,
            ),
            Figure(
                key="recovery_ms",
                title=f"recovery of {STEPS:,} steps, from process start",
                unit="ms",
                value=max(m.recovery_ms),
                samples=len(m.recovery_ms),
                peers=recovery_peers,
                bar=500,
                bound="the log is read, sent, parsed and matched once",
            ),
            None
            if m.machine_tail_ms is None
            else Figure(
                key="machine_tail_ms",
                title=f"recovery with a snapshot at {m.machine_steps - 10:,} of these, past resume",
                unit="ms",
                value=m.machine_tail_ms,
                bar=50,
                bound="ten records to match, by an emulated processor where there is no KVM",
            ),
            Figure(
                key="wake_p99_ms",
                title="event to wake: p99",
                unit="ms",
                value=percentile(m.wake_ms, 0.99),
                samples=len(m.wake_ms),
                bar=25,
                bound="two commits and two hops",
            ),
            Figure(
                key="overshoot_p99_ms",
                title="sleep overshoot: p99",
                unit="ms",
                value=percentile(m.overshoot_ms, 0.99),
                samples=len(m.overshoot_ms),
                bar=30,
                bound="a timer, two commits, two hops",
            ),
            Figure(
                key="stored_ratio",
                title=f"stored for {m.messages:,} messages of 1 KB, over their bytes",
                unit="ratio",
                value=m.stored_bytes / m.message_bytes,
                samples=m.messages,
                bar=1.5,
                bound="their bytes",
                bound_value=1,
            ),
            Figure(
                key="ledger_lost",
                title=f"{ledger.kills} kills in {ledger.steps:,} steps: lost",
                unit="count",
                value=ledger.lost,
                samples=ledger.kills,
                bar=0,
                bound="what is recorded was done",
            ),
            Figure(
                key="ledger_unmarked",
                title="recorded steps that ran again, repeats the log does not show",
                unit="count",
                value=ledger.unmarked,
                samples=ledger.kills,
                bar=0,
                bound="what is done again is marked first",
            ),
            Figure(
                key="ledger_again",
                title="steps in doubt that were done again",
                unit="count",
                value=ledger.again,
                samples=ledger.kills,
                bar=ledger.kills * ledger.beside,
                bound=f"one a kill and step under way, of which there were {ledger.beside}",
            ),
        )
        if figure is not None
    )
