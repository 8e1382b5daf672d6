"""A run's cancellation, as its driver sees it through: requested, passed on to the agent, and over,
where that does not end within a grace."""

from __future__ import annotations

from torpor.core.clock import Clock
from torpor.machines.channel import Channel
from torpor.wire import names

REASON = "cancelled on request"
CANCELLED = {"type": "Cancelled", "message": REASON, "traceback": None}


class Cancelling:
    def __init__(self, wanted: bool, clock: Clock, grace_s: float) -> None:
        self.wanted = wanted
        self._clock, self._grace_s = clock, grace_s
        self._until: float | None = None  # monotonic; once the agent knows

    def begin(self, guest: Channel) -> None:
        """Let the agent clean up and end, once."""
        if self.wanted and self._until is None:
            self._until = self._clock.monotonic() + self._grace_s
            guest.say(names.CANCEL, reason=REASON)

    @property
    def over(self) -> bool:
        """The agent had its time."""
        return self._until is not None and self._clock.monotonic() > self._until

    def within(self, seconds: float | None) -> float | None:
        """Of a time to sleep, what there is of it before that is over."""
        if self._until is None:
            return seconds
        left_s = max(0.0, self._until - self._clock.monotonic()) + 0.01
        return left_s if seconds is None else min(seconds, left_s)
