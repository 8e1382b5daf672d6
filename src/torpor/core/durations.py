"""Durations as people write them: seconds, a timedelta, or text such as "90s", "1h30m", "7d"."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeAlias

Duration: TypeAlias = float | str | timedelta
Durations: TypeAlias = Duration | Sequence[Duration]

UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])\s*")
_ISO = re.compile(r"(-)?P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d+))?S)?)?")
SECONDS_MAX = 100 * 366 * 86400.0


def seconds(duration: Duration) -> float:
    """`duration` in seconds, from 0 to a hundred years. Raises ValueError saying what is taken."""
    value = _seconds(duration)
    if value is None or not math.isfinite(value) or not 0 <= value <= SECONDS_MAX:
        raise ValueError(
            f"{duration!r} is not a duration: "
            'give seconds (90) or text like "90s", "15m", "2h", "7d", at most 100 years'
        )
    return value


def timedelta_of(given: float | str) -> timedelta:
    """What others write: seconds, text as above, or ISO 8601 ("P1DT2H", "-PT0.5S"). Raises
    ValueError, OverflowError."""
    if isinstance(given, str) and (found := _ISO.fullmatch(given.strip())):
        sign, *numbers = found.groups()
        if any(numbers) and not given.strip().endswith("T"):
            weeks, days, hours, minutes, whole, part = (number or "0" for number in numbers)
            length = timedelta(int(days), int(whole), int(part[:6].ljust(6, "0")))
            length += timedelta(weeks=int(weeks), hours=int(hours), minutes=int(minutes))
            return -length if sign else length
    value = _seconds(given)
    if value is None:
        raise ValueError(f"{given!r} is not a duration")
    return timedelta(seconds=value)


def _seconds(duration: Duration) -> float | None:
    if isinstance(duration, timedelta):
        return duration.total_seconds()
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        return float(duration)
    if not isinstance(duration, str):
        return None
    text = duration.strip().lower()
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text):
        return None
    return sum(float(number) * UNIT_S[unit] for number, unit in parts)
