"""When a schedule fires, and what becomes of the times that it missed: pure, and with every time
given.

A schedule fires at the times of its cron expression, read in its time zone by `cronsim`, as
Debian's cron does: a time that the clock skips in spring comes at once after the gap; one that it
passes twice in autumn is passed once, but for expressions that fire every hour or so. Each time has
its own *jitter*, the same whoever asks: a schedule that was restarted fires when it would have.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from torpor.core.errors import Invalid

# One that is fired so late was missed: no server was there.
LATE_S = 60.0
MISSED_MAX = 100  # runs are made for at most so many missed times, the newest
# If more times have passed than this, only the last of them are looked at.
LOOKED_AT_MAX = 1000


@dataclass(frozen=True)
class Times:
    cron: str
    zone: str = "UTC"
    jitter_s: float = 0.0

    def check(self) -> Times:
        """Raises Invalid: no cron expression, no zone, or one that never fires."""
        try:
            ZoneInfo(self.zone)
        except (ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
            raise Invalid(f"there is no time zone {self.zone!r}") from error
        except KeyError as error:
            raise Invalid(
                f"there is no time zone {self.zone!r}", hint='Use a name such as "Europe/Berlin".'
            ) from error
        try:
            if next(CronSim(self.cron, datetime.now(UTC)), None) is None:
                raise Invalid(f"cron expression {self.cron!r} has no next time")
        except CronSimError as error:
            raise Invalid(
                f"{self.cron!r} is not a cron expression: {error}",
                hint='Write minute, hour, day, month, weekday: "30 8 * * mon-fri".',
            ) from error
        return self

    def after(self, at: float) -> Iterator[float]:
        """The times after `at`, unix seconds, without jitter."""
        start = datetime.fromtimestamp(at, ZoneInfo(self.zone))
        for time in CronSim(self.cron, start):
            yield time.timestamp()

    def before(self, at: float) -> Iterator[float]:
        """The times before `at`, the newest first."""
        start = datetime.fromtimestamp(at, ZoneInfo(self.zone))
        for time in CronSim(self.cron, start, reverse=True):
            yield time.timestamp()

    def fires_at(self, schedule: str, time: float) -> float:
        """When it fires for the time `time`."""
        if not self.jitter_s:
            return time
        digest = hashlib.sha256(f"{schedule}\n{time:.0f}".encode()).digest()
        return time + self.jitter_s * int.from_bytes(digest[:6]) / 2**48


@dataclass(frozen=True)
class Due:
    """The times for which runs are made now, oldest first; the time that is next; and whether there
    are some that passed, for which none is made."""

    times: list[float]
    next_time: float | None
    missed: bool


def due(schedule: str, times: Times, missed: str, next_time: float, now: float) -> Due:
    """What is due of a schedule whose next time is `next_time`."""
    passed, following, whole = _passed(schedule, times, next_time, now)
    late = [time for time in passed if now - times.fires_at(schedule, time) > LATE_S]
    in_time = passed[len(late) :]
    most = {"skip": 0, "once": 0 if in_time else 1, "all": MISSED_MAX}[missed]
    caught_up = late[len(late) - min(most, len(late)) :]
    return Due([*caught_up, *in_time], following, not whole or len(caught_up) < len(late))


def _passed(
    schedule: str, times: Times, next_time: float, now: float
) -> tuple[list[float], float | None, bool]:
    """The times from `next_time` on that are to fire by now, and the one after; only the last of
    them, and False, if they are many."""
    whole = True
    while True:
        passed: list[float] = []
        for time in chain([next_time], times.after(next_time)):
            if times.fires_at(schedule, time) > now:
                return passed, time, whole
            passed.append(time)
            if len(passed) > LOOKED_AT_MAX and whole:
                whole = False
                next_time = min(islice(times.before(now), MISSED_MAX + 1))
                break
        else:
            return passed, None, whole


def first_time(times: Times, now: float) -> float | None:
    return next(times.after(now), None)
