from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.durations import SECONDS_MAX, seconds


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        (0, 0.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("15m", 900.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("1w", 604800.0),
        ("250ms", 0.25),
        ("1h30m", 5400.0),
        (" 1 H 30 M ", 5400.0),
        ("0.5h", 1800.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_what_durations_mean(duration: Any, expected: float) -> None:
    assert seconds(duration) == expected


@pytest.mark.parametrize(
    "bad",
    [
        *("", "5", "s", "5 years", "1h and 5m", "-5s", "99999w"),
        *(-1, SECONDS_MAX * 2, float("nan"), float("inf"), True, None, timedelta(seconds=-1)),
    ],
)
def test_what_is_no_duration_is_refused_with_examples(bad: Any) -> None:
    with pytest.raises(ValueError, match=r'"90s", "15m"'):
        seconds(bad)


@given(st.floats(0, SECONDS_MAX))
def test_seconds_are_themselves(value: float) -> None:
    assert seconds(value) == value
