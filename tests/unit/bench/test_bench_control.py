"""What the figures of `torpor bench control` say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from torpor.bench.controlbars import Measured, figures
from torpor.bench.footprint import Footprint, Frozen, Grown

GOOD = Measured(
    writers=32,
    appends=20_000,
    appends_per_s=6000.0,
    start_ms=[5.0] * 40,
    wake_ms=[5.0] * 99 + [200.0],
    sleeping=10_000,
    idle_cpu_share=0.005,
    idle_bytes=120_000_000,
    page_ms=[20.0] * 20,
    timers=1000,
    timers_late_ms=900.0,
    memory=Footprint(
        process=Grown(500, 130_000_000, 1_000_000),
        machines=Grown(60, 200_000_000, -1_000_000),
        freeze=Frozen(80.0, 280_000_000, 100_000_000),
        checkpoint=Frozen(600.0, 290_000_000, 100_000_000),
    ),
)


def taking(**change: Grown | Frozen | None) -> Measured:
    return replace(GOOD, memory=replace(GOOD.memory, **change))  # type: ignore[arg-type]


def test_where_no_machines_run() -> None:
    without = taking(machines=None, freeze=None, checkpoint=None)
    keys = {each.key for each in figures(without)}
    assert {each.key for each in figures(GOOD)} - keys == {
        *(f"machine_runs_{what}" for what in ("bytes", "grown_bytes")),
        *(f"{how}_{what}" for how in ("freeze", "checkpoint") for what in FROZEN),
    }


FROZEN = ("peak_bytes", "pager_bytes", "pause_ms")


def test_what_meets_every_bar() -> None:
    assert [each.key for each in figures(GOOD) if each.met is not True] == []


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("appends_per_s", replace(GOOD, appends_per_s=4999.0)),
        ("start_ms", replace(GOOD, start_ms=[1.0] * 19 + [11.0] * 21)),
        ("wake_ms", replace(GOOD, wake_ms=[21.0] * 100)),
        ("wake_p99_ms", replace(GOOD, wake_ms=[5.0] * 98 + [61.0] * 2)),
        ("idle_cpu", replace(GOOD, idle_cpu_share=0.02)),
        ("idle_bytes", replace(GOOD, idle_bytes=151_000_000)),
        ("page_ms", replace(GOOD, page_ms=[101.0] * 20)),
        ("timers_late_ms", replace(GOOD, timers_late_ms=2001.0)),
        ("process_runs_bytes", taking(process=Grown(500, 251_000_000, 0))),
        ("machine_runs_grown_bytes", taking(machines=Grown(60, 200_000_000, 11_000_000))),
        ("freeze_peak_bytes", taking(freeze=Frozen(80.0, 501_000_000, 1))),
        ("freeze_pause_ms", taking(freeze=Frozen(1201.0, 1, 1))),
        ("checkpoint_pager_bytes", taking(checkpoint=Frozen(600.0, 1, 301_000_000))),
    ],
)
def test_each_bar_can_be_missed_alone(key: str, bad: Measured) -> None:
    assert [each.key for each in figures(bad) if each.met is not True] == [key]
