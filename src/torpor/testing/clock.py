"""The time in a test: it stands still, and skips when the agent rests to what comes next.

`torpor.now` reads it, waits, sleeps and the pauses between attempts are counted by it, and timers
of event loops are due by it, too, though these also move on as the real time does: what the agent
waits for outside of torpor takes its real time. Python's own `time.time` is as ever.
"""

from __future__ import annotations

import contextlib
import threading
import time
from asyncio import base_events
from collections.abc import Collection, Iterator

from torpor.sdk import rest


class Clock:
    """Begins at `at`, in unix seconds. The threads `foreign` are not the agent's."""

    def __init__(self, at: float, foreign: Collection[threading.Thread]) -> None:
        self.began = at
        self.skipped = 0.0
        self._foreign = {each.ident for each in foreign}

    def now(self) -> float:
        return self.began + self.skipped

    def skip(self, duration_s: float) -> None:
        self.skipped += duration_s

    def loop_time(self) -> float:
        """The time of an event loop, in the thread that asks."""
        foreign = threading.get_ident() in self._foreign
        return time.monotonic() + (0.0 if foreign else self.skipped)

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """Event loops' time is this one's."""
        ours = self.loop_time
        loop, look = base_events.BaseEventLoop.time, rest.loop_time
        base_events.BaseEventLoop.time = lambda self: ours()  # type: ignore[method-assign]
        rest.loop_time = self.loop_time
        try:
            yield
        finally:
            base_events.BaseEventLoop.time = loop  # type: ignore[method-assign]
            rest.loop_time = look
