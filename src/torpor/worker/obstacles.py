"""What of its host keeps a run from going on as it should: a full disk, a freeze that failed.

Each is noted in the log, and shown while it lasts (`torpor show`).
"""

from __future__ import annotations

import logging

from torpor.core.clock import Clock
from torpor.machines.channel import Channel
from torpor.policy.freeze import Stay
from torpor.worker.pen import Pen

log = logging.getLogger(__name__)


class Obstacles:
    """Those of one driver's run."""

    def __init__(self, pen: Pen, clock: Clock, retry_s: float) -> None:
        self._pen, self._clock, self._retry_s = pen, clock, retry_s
        self._stood_since: float | None = None  # monotonic
        self._freeze_failed_for: str | None = None
        self._not_before = 0.0  # monotonic: no freeze is tried before

    def words(self, guest: Channel | None) -> str | None:
        """What there is just now, for people."""
        if guest is not None and guest.stall is not None:
            return f"stands still: {guest.stall}. It goes on once there is room"
        if self._pen.waits_for is not None or self._freeze_failed_for is None:
            return self._pen.waits_for
        return f"running, since it cannot be frozen: {self._freeze_failed_for}"

    def stay(self, guest: Channel, *, waiting: int) -> Stay | None:
        """Why no freeze should be tried now."""
        if guest.stall is not None:
            return Stay("it stands still", None)
        if waiting and (left_s := self._not_before - self._clock.monotonic()) > 0:
            return Stay("it could not be frozen just now", left_s)
        return None

    async def look(self, guest: Channel) -> None:
        """Note when the agent's machine begins to stand still, and when it goes on."""
        if guest.stall is not None and self._stood_since is None:
            self._stood_since = self._clock.monotonic()
            log.warning("run %s stands still: %s", self._pen.run, guest.stall)
            await self._pen.note("machine.stalled", reason=guest.stall)
        elif guest.stall is None and self._stood_since is not None:
            stood_s = round(self._clock.monotonic() - self._stood_since, 3)
            self._stood_since = None
            await self._pen.note("machine.went_on", stood_s=stood_s)

    def put_off(self, seconds: float | None = None) -> None:
        """A freeze cannot be had now."""
        pause_s = self._retry_s if seconds is None else seconds
        self._not_before = self._clock.monotonic() + pause_s

    async def freeze_failed(self, reason: str) -> None:
        self.put_off()
        self._freeze_failed_for = reason
        await self._pen.note("freeze.failed", reason=reason)

    def frozen(self) -> None:
        self._freeze_failed_for = None
