"""A run's cancellation, as its driver sees it through: requested, passed on to the agent, and over,
where that does not end within a grace."""

from __future__ import annotations

import time

from torpor.machines.channel import Conversation
from torpor.wire import names

GRACE_S = 10.0
REASON = "cancelled on request"
CANCELLED = {"type": "Cancelled", "message": REASON, "traceback": None}


class Cancelling:
    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._until: float | None = None  # monotonic; once the agent knows

    def begin(self, guest: Conversation) -> None:
        """Let the agent clean up and end, once."""
        if self.wanted and self._until is None:
            self._until = time.monotonic() + GRACE_S
            guest.say(names.CANCEL, reason=REASON)

    @property
    def over(self) -> bool:
        """The agent had its time."""
        return self._until is not None and time.monotonic() > self._until

    def within(self, seconds: float | None) -> float | None:
        """Of a time to sleep, what there is of it before that is over."""
        if self._until is None:
            return seconds
        left_s = max(0.0, self._until - time.monotonic()) + 0.01
        return left_s if seconds is None else min(seconds, left_s)
