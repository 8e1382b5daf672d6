"""Percentiles are samples, ratios have the shape of figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.bench.stats import Figures, Samples, Spread, ratios, spread

positive = st.floats(0.001, 1e9, allow_nan=False)


@given(st.lists(positive, min_size=1, max_size=200))
def test_percentiles_are_samples_in_order_and_cover_their_share(samples: list[float]) -> None:
    found = spread(samples)
    assert {found.p50, found.p90, found.max} <= set(samples)
    assert found.p50 <= found.p90 <= found.max == max(samples)
    for value, share in ((found.p50, 0.5), (found.p90, 0.9)):
        assert sum(each <= value for each in samples) >= math.ceil(share * len(samples))
        assert sum(each < value for each in samples) < math.ceil(share * len(samples))


def test_known_percentiles() -> None:
    assert spread([7]) == Spread(7, 7, 7)
    assert spread(range(1, 11)) == Spread(5, 9, 10)
    assert spread([3, 1, 2]) == Spread(2, 3, 3)


def test_no_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        spread([])


def _figures(scale: int = 1) -> Figures:
    samples = Samples()
    for k in range(1, 5):
        samples.fell_asleep(8.04 * k * scale, 60.06 * k * scale, 90_000 * k * scale)
        samples.woke(80.0 * k * scale, cold=k % 2 == 0)
    return Figures.of(samples, boot_ms=4000.0 * scale, template_bytes=20_000_000 * scale)


def test_warm_and_cold_wakes_are_kept_apart() -> None:
    figures = _figures()
    assert figures.resume_warm_ms == Spread(80.0, 240.0, 240.0)
    assert figures.resume_cold_ms == Spread(160.0, 320.0, 320.0)


def test_figures_lack_no_kind_of_sample() -> None:
    samples = Samples()
    samples.fell_asleep(1.0, 2.0, 3)
    samples.woke(4.0, cold=False)
    with pytest.raises(ValueError, match="no sample"):
        Figures.of(samples, boot_ms=1.0, template_bytes=1)


def test_json_has_tenths_of_ms_and_whole_bytes() -> None:
    assert _figures().to_json() == {
        "boot_ms": {"p50": 4000.0, "p90": 4000.0, "max": 4000.0},
        "template_bytes": 20_000_000,
        "pause_ms": {"p50": 16.1, "p90": 32.2, "max": 32.2},
        "freeze_ms": {"p50": 120.1, "p90": 240.2, "max": 240.2},
        "snapshot_bytes": {"p50": 180_000, "p90": 360_000, "max": 360_000},
        "resume_warm_ms": {"p50": 80.0, "p90": 240.0, "max": 240.0},
        "resume_cold_ms": {"p50": 160.0, "p90": 320.0, "max": 320.0},
    }


@given(st.integers(1, 1000))
def test_ratios_have_the_shape_of_figures(scale: int) -> None:
    found = ratios(_figures(), _figures(scale))

    def shape(value: object) -> object:
        return {key: shape(each) for key, each in value.items()} if isinstance(value, dict) else 0

    assert shape(found) == shape(_figures().to_json())
    assert found["template_bytes"] == found["freeze_ms"]["p90"] == round(1 / scale, 4)
