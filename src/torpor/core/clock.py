"""The time, as everything in the server gets it: handed in, never read from the operating system.

So a test can have an hour pass at once (`torpor.testing.clock.ManualClock`). Only `SystemClock`
reads the host's clocks; a house test keeps `worker` and `control` from doing it themselves.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since 1970. What people and other hosts can compare; it may be set back."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, to measure how long something takes. Stands still while the
        host is suspended."""
        ...

    def boottime(self) -> float:
        """As `monotonic`, but time that the host was suspended counts too."""
        ...

    async def sleep(self, seconds: float) -> None: ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """As `asyncio.timeout`: raises TimeoutError in its body's place. None: never."""
        ...


class SystemClock:
    """The host's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def boottime(self) -> float:
        if hasattr(time, "CLOCK_BOOTTIME"):  # Linux
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        return asyncio.timeout(seconds)


SYSTEM_CLOCK = SystemClock()
