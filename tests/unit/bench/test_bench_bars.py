"""Figures meet their bars or not, say how far they are from their bounds, and keep their keys."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.bench.bars import PLAIN, ZSTD, Figure, Gc, Growth, Measured, Slices, figures
from torpor.bench.sealing import Cost
from torpor.bench.stats import Samples, Spread
from torpor.bench.throughput import Rates

positive = st.floats(0.01, 1e9, allow_nan=False)
TIME = Figure(key="pause_ms", title="pause", unit="ms", value=8.04, bound="what it needs")
RATE = replace(TIME, key="serve_mb_s", unit="MB/s", value=400.0)
KEYS = (
    *("pause_ms", "freeze_ms", "snapshot_bytes", "ten_steps_bytes", "resume_warm_ms"),
    *("resume_warm_p99_ms", "resume_cold_ms", "resume_cold_p99_ms", "learned_ms", "unlearned_ms"),
    *("template_bytes", "fill_freeze_ms", "fill_snapshot_bytes", "depth_1_ms", "depth_10_ms"),
    *("manifest_bytes", "manifest_open_ms", "growth_ratio", "growth_linearity", "gc_ms"),
    *("capture_mb_s", "serve_mb_s", "sealed_write_ms", "sealed_frame_ms", "machine_bytes"),
)


def _measured() -> Measured:
    samples = Samples()
    samples.fell_asleep(700.0, 900.0, 60_000_000)
    samples.woke(500.0, cold=False)
    samples.woke(700.0, cold=True)
    peers = {ZSTD: samples, PLAIN: samples}
    each = Spread(1.0, 2.0, 3.0)
    return Measured(
        template_bytes=10_000_000,
        template_pages=7000,
        small=Slices([8.0, 9.0], [60.0, 62.0], [70_000, 75_000], [90.0] * 3, [100.0] * 3),
        small_pages=150,
        prepare_ms=30.0,
        engine_pause_ms=4.0,
        durable_ms=5.0,
        thaw_ms=45.0,
        ten_steps_bytes=[400_000],
        ten_steps_pages={"plain": 60, "xor": 300, "dup": 5},
        learned_ms=[120.0],
        unlearned_ms=[480.0],
        fill_bytes=100_000_000,
        fill_freeze_ms=[1400.0],
        fill_snapshot_bytes=[51_000_000],
        growth=Growth(
            snapshots=100,
            bytes=5_000_000,
            changed_bytes=50_000_000,
            second_half=1.1,
            manifest_bytes=40_000,
            manifest_open_ms=3.0,
            depth_ms={1: [80.0], 10: [88.0]},
            depth_frames={1: 70, 10: 90},
        ),
        gc=Gc(900.0, 50, 48, 2_000_000),
        capture=Rates(150.0, 250.0),
        serve=Rates(300.0, 900.0),
        sealing=Cost(50_000_000, each, each, each, each),
        machine_bytes=40e6,
        pushed_bytes=8_000_000,
        peers=peers,
        fill_peers=peers,
        template_peers={ZSTD: 50_000_000, PLAIN: 150_000_000},
    )


def test_keys_are_stable_and_each_has_a_bound() -> None:
    found = figures(_measured())
    assert tuple(figure.key for figure in found) == KEYS
    assert all(figure.bound for figure in found)


def test_what_was_measured_meets_its_bar_or_not() -> None:
    found = {figure.key: figure for figure in figures(_measured())}
    assert found["pause_ms"].met is True
    assert found["serve_mb_s"].met is False  # a third of the copy
    assert found["capture_mb_s"].met is True
    assert found["learned_ms"].met is None
    assert found["resume_warm_ms"].distance == 2
    assert found["unlearned_ms"].distance == 4
    assert found["freeze_ms"].bound_value == 30 + 4 + 2 * 5
    # 100 MB at 250 MB/s
    assert found["fill_freeze_ms"].bound_value == pytest.approx(400)


@given(value=positive, bar=positive)
def test_times_have_a_most_and_rates_a_least(value: float, bar: float) -> None:
    assert replace(TIME, value=value, bar=bar).met is (value <= bar)
    assert replace(RATE, value=value, bar=bar).met is (value >= bar)


@given(value=positive, bound=positive)
def test_better_than_bounded_is_less_than_once(value: float, bound: float) -> None:
    time, rate = (replace(each, value=value, bound_value=bound) for each in (TIME, RATE))
    assert time.distance is not None and rate.distance is not None
    assert (time.distance < 1) is (value / bound < 1)
    assert rate.distance * time.distance == pytest.approx(1)


def test_without_bar_and_bound_nothing_is_claimed() -> None:
    assert (TIME.met, TIME.distance) == (None, None)
    assert TIME.cells() == ("pause", "8.0 ms", "", "", "what it needs")


def test_cells_show_what_stands_beside() -> None:
    full = replace(TIME, peers={ZSTD: 812.0}, bar=12.0, bound_value=4.02)
    assert full.cells() == (
        "pause",
        "8.0 ms",
        "812 ms QEMU, zstd -1",
        "✓ ≤ 12.0 ms",
        "what it needs: 4.0 ms, 2.0 times",
    )
    assert replace(RATE, bar=500.0).cells()[3] == "✗ ≥ 500 MB/s"


def test_json_says_all_of_it() -> None:
    full = replace(TIME, peers={PLAIN: 300.0001}, bar=12.0, bound_value=4.02, samples=30)
    assert full.to_json() == {
        "value": 8.04,
        "unit": "ms",
        "samples": 30,
        "peers": {PLAIN: 300.0},
        "bar": 12.0,
        "met": True,
        "bound": "what it needs",
        "bound_value": 4.02,
        "distance": 2.0,
    }
