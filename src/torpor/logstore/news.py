"""Delivering what was written, once it is committed: to who follows a run, and to who listens to
all. What a write means to others it notes itself (`torpor.contextlog.news`)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType

from torpor.contextlog.news import News, Written
from torpor.core.ids import RunId


class Feed:
    """A store's subscribers and listeners. Safe to use from any thread and event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards both
        self._subscriptions: dict[RunId, set[Subscription]] = {}
        self._listeners: list[Callable[[News], None]] = []

    def subscribe(self, run: RunId) -> Subscription:
        """Follow the writes to `run` from now on, in the running event loop."""
        subscription = Subscription(self, run)
        with self._lock:
            self._subscriptions.setdefault(run, set()).add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        with self._lock:
            others = self._subscriptions.get(subscription.run, set())
            others.discard(subscription)
            if not others:
                self._subscriptions.pop(subscription.run, None)

    def listen(self, listener: Callable[[News], None]) -> None:
        """Have all news from now on given to `listener`, in the order in which it was written and
        in the running event loop."""
        with self._lock:
            self._listeners.append(partial(call_in, asyncio.get_running_loop(), listener))

    def publish(self, written: Sequence[Written]) -> None:
        """Deliver what a transaction wrote, which is committed."""
        with self._lock:
            runs = {run for each in written for run in each.runs}
            subscriptions = [s for run in runs for s in self._subscriptions.get(run, ())]
            listeners = list(self._listeners)
        for subscription in subscriptions:
            subscription.notify()
        for news in (news for each in written for news in each.news):
            for listener in listeners:
                listener(news)


class Subscription:
    """Remembers that its run changed until somebody waits for it. A context manager.

    Subscribe, then read, then wait, then read again: a change between reading and waiting ends
    the wait at once.
    """

    def __init__(self, feed: Feed, run: RunId) -> None:
        self.run = run
        self._feed = feed
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def wait(self) -> None:
        """Return when the run was written to since the last `wait` (or since subscribing)."""
        await self._changed.wait()
        self._changed.clear()

    def notify(self) -> None:
        """The run was written to. From any thread."""
        call_in(self._loop, self._changed.set)

    def close(self) -> None:
        self._feed.unsubscribe(self)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *args: object) -> None:
    """Call it in that event loop, from any thread."""
    with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is at work
        loop.call_soon_threadsafe(call, *args)
