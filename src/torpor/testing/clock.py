"""The time in a test: it stands still, and skips to what comes next.

`ManualClock` is the time of a server's parts (`torpor.core.clock.Clock`): whoever sleeps by it goes
on when the test has skipped that far. `LoopClock` is the time of an agent: `torpor.now` reads it,
waits, sleeps and the pauses between attempts are counted by it, and it skips when the agent rests.
Timers of the agent's event loops are due by it, too, though these also move on as the real time
does: what the agent waits for outside of torpor takes its real time. Python's own `time.time` is as
ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
from asyncio import base_events
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from heapq import heappop, heappush

from torpor.sdk import looptime


class ManualClock:
    """Begins at `at`, in seconds since 1970. See `torpor.core.clock.Clock`."""

    def __init__(self, at: float = 1_000_000_000.0) -> None:
        self.began = at
        self.skipped = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def now(self) -> float:
        return self.began + self.skipped

    def monotonic(self) -> float:
        return self.skipped

    def boottime(self) -> float:
        return self.skipped

    def skip(self, duration_s: float) -> None:
        """So much time passes at once. Who slept until then goes on when the loop comes to it."""
        self.skipped += duration_s
        while self._due and self._due[0][0] <= self.skipped:
            heappop(self._due)[2]()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._at(seconds, woken.set)
        await woken.wait()

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as limit:
            over = False

            def expire() -> None:
                if not over:
                    limit.reschedule(asyncio.get_running_loop().time())

            if seconds is not None:
                self._at(seconds, expire)
            try:
                yield
            finally:
                over = True

    def _at(self, seconds: float, act: Callable[[], None]) -> None:
        if seconds <= 0:
            asyncio.get_running_loop().call_soon(act)
        else:
            heappush(self._due, (self.skipped + seconds, next(self._count), act))


class LoopClock(ManualClock):
    """An agent's. The threads `foreign` are not the agent's."""

    def __init__(self, at: float, foreign: Collection[threading.Thread]) -> None:
        super().__init__(at)
        self._foreign = {each.ident for each in foreign}

    def loop_time(self) -> float:
        """The time of an event loop, in the thread that asks."""
        foreign = threading.get_ident() in self._foreign
        return time.monotonic() + (0.0 if foreign else self.skipped)

    @contextlib.contextmanager
    def in_charge(self) -> Iterator[None]:
        """Event loops' time is this one's."""
        ours = self.loop_time
        loop, look = base_events.BaseEventLoop.time, looptime.loop_time
        base_events.BaseEventLoop.time = lambda self: ours()  # type: ignore[method-assign]
        looptime.loop_time = self.loop_time
        try:
            yield
        finally:
            base_events.BaseEventLoop.time = loop  # type: ignore[method-assign]
            looptime.loop_time = look
