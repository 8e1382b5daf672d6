"""Times are given, so both changes of the clock come at once."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.policy.schedules import LATE_S, MISSED_MAX, Times, due

BERLIN = ZoneInfo("Europe/Berlin")
DAY_S = 86400.0


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def fires(cron: str, after: str, count: int) -> list[str]:
    times = islice(Times(cron, "Europe/Berlin").after(at(after)), count)
    return [datetime.fromtimestamp(time, BERLIN).isoformat(" ", "minutes") for time in times]


def test_an_hour_that_the_clock_skips_is_made_up_for() -> None:
    assert fires("30 2 * * *", "2026-03-28T03:00+01:00", 3) == [
        "2026-03-29 03:00+02:00",
        "2026-03-30 02:30+02:00",
        "2026-03-31 02:30+02:00",
    ]
    assert fires("0 */2 * * *", "2026-03-29T00:30+01:00", 2) == [
        "2026-03-29 03:00+02:00",
        "2026-03-29 04:00+02:00",
    ] or fires("0 */2 * * *", "2026-03-29T00:30+01:00", 1) == ["2026-03-29 04:00+02:00"]


def test_an_hour_that_the_clock_repeats_fires_daily_once_and_hourly_twice() -> None:
    assert fires("30 2 * * *", "2026-10-24T03:00+02:00", 2) == [
        "2026-10-25 02:30+02:00",
        "2026-10-26 02:30+01:00",
    ]
    assert fires("0 * * * *", "2026-10-25T01:30+02:00", 3) == [
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 03:00+01:00",
    ]


DAILY = Times("0 8 * * *")
FIRST = at("2026-06-01T08:00+00:00")


@pytest.mark.parametrize(
    ("missed", "late_s", "days", "left_out"),
    [
        ("skip", 3 * DAY_S + 1, [3], True),
        ("once", 3 * DAY_S + 1, [3], True),
        ("all", 3 * DAY_S + 1, [0, 1, 2, 3], False),
        ("skip", 2 * DAY_S + 3600, [], True),
        ("once", 2 * DAY_S + 3600, [2], True),
        ("all", 2 * DAY_S + 3600, [0, 1, 2], False),
        ("skip", LATE_S, [0], False),
        ("all", -1, [], False),
    ],
)
def test_what_becomes_of_missed_times(
    missed: str, late_s: float, days: list[int], left_out: bool
) -> None:
    found = due("s", DAILY, missed, FIRST, FIRST + late_s)
    assert found.times == [FIRST + day * DAY_S for day in days]
    assert found.missed is left_out
    assert found.next_time is not None and found.next_time > FIRST + late_s


def test_all_is_bounded() -> None:
    found = due("s", Times("* * * * *"), "all", FIRST, FIRST + 3 * DAY_S)
    assert found.missed and MISSED_MAX <= len(found.times) <= MISSED_MAX + 2
    assert found.times[-1] == FIRST + 3 * DAY_S
    found = due("s", Times("* * * * *"), "once", FIRST, FIRST + 3650 * DAY_S)
    assert found.next_time == FIRST + 3650 * DAY_S + 60


@given(st.floats(0.1, 3600.0), st.integers(0, 10**6))
def test_jitter_is_bounded_and_the_same_each_time(jitter_s: float, minute: int) -> None:
    times = Times("* * * * *", jitter_s=jitter_s)
    fired = times.fires_at("s", FIRST + 60.0 * minute)
    assert 0 <= fired - FIRST - 60.0 * minute <= jitter_s
    assert fired == times.fires_at("s", FIRST + 60.0 * minute)


@pytest.mark.parametrize(
    "times",
    [Times("61 * * * *"), Times("nonsense"), Times("* * * * *", "Mars/Base"), Times("0 0 30 2 *")],
)
def test_nonsense_is_refused(times: Times) -> None:
    with pytest.raises(Invalid):
        times.check()
