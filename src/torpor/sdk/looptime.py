"""Event loops' time, and how it goes on over a sleep of the machine.

It moves on with what the machine sleeps: a timeout around a wait of days counts them, and the
machine is woken for it. Under a recorded call it does not: the machine sleeps because an answer is
slow, and no client's timeout may come due by that, nor wake it. All timers of loops stand still
then, as what the kernel counts does, but for `asyncio.sleep`, which is no timeout: who sleeps wakes
at the time that it meant. (Of what else there is, timeouts are the most, each library has its own,
and all of them compare with the loop's time.)
"""

from __future__ import annotations

import contextlib
import heapq
import sys
import time
from asyncio import base_events, futures
from collections.abc import Iterator
from types import FrameType
from typing import Any


def running_loops() -> dict[int, Any]:
    """The event loop that each thread runs, of those that are written in Python."""
    found: dict[int, Any] = {}
    for ident, top in sys._current_frames().items():
        frame: FrameType | None = top
        while frame is not None:
            if frame.f_code is base_events.BaseEventLoop.run_forever.__code__:
                found[ident] = frame.f_locals["self"]
                break
            frame = frame.f_back
    return found


class _LoopClock:
    """`time.monotonic`, moved on by what the machine has slept: by what the time of day, which is
    set at each thaw, has moved on more."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._behind = time.time() - time.monotonic()
        self._ahead = 0.0
        self._stands = False

    def __call__(self) -> float:
        # In this order: whatever comes between makes it less, never more.
        day, now = time.time(), time.monotonic()
        if not self._stands:
            self._ahead = max(self._ahead, day - now - self._behind)
        return now + self._ahead

    def stand(self) -> None:
        """From now on it does not move on with what the machine sleeps."""
        self()
        self._stands = True

    def go_on(self) -> float:
        """It does again. How long the machine has slept meanwhile, which is never counted."""
        day, now = time.time(), time.monotonic()
        slept_s = max(0.0, day - now - self._behind - self._ahead)
        self._behind += slept_s
        self._stands = False
        return slept_s


_clock = _LoopClock()
loop_time = time.monotonic


def move_loops_with_sleep() -> None:
    """From now on event loops' time includes what the machine sleeps."""
    global loop_time
    loop_time = _clock
    base_events.BaseEventLoop.time = lambda self: _clock()  # type: ignore[method-assign]


def restart_clock() -> None:
    _clock.restart()


def nudge_loops() -> None:
    """After a sleep: they look at the time again, which the kernel does not know of."""
    for loop in running_loops().values():
        with contextlib.suppress(RuntimeError):  # closed in this moment
            loop.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    pass


def is_sleep(handle: Any) -> bool:
    """Whether a loop's timer is that of an `asyncio.sleep`."""
    return handle._callback is futures._set_result_unless_cancelled  # type: ignore[attr-defined]


@contextlib.contextmanager
def over_a_sleep(*, stands: bool) -> Iterator[None]:
    """While the machine may sleep. If it `stands`, loops' time does not move on by that."""
    sleeps: list[tuple[Any, list[Any]]] = []
    if stands:
        for loop in running_loops().values():
            sleeps.append((loop, [each for each in list(loop._scheduled) if is_sleep(each)]))
        _clock.stand()
    try:
        yield
    finally:
        slept_s = _clock.go_on() if stands else 0.0
        for loop, handles in sleeps:
            with contextlib.suppress(RuntimeError):  # closed in this moment
                loop.call_soon_threadsafe(_advance, loop, handles, slept_s)
        nudge_loops()


def _advance(loop: Any, sleeps: list[Any], by_s: float) -> None:
    """In the loop's own thread. One that is over is in no heap any more."""
    for handle in sleeps:
        handle._when -= by_s
    heapq.heapify(loop._scheduled)
