"""The runtime's lock, and the signal by which a cancellation reaches the main thread.

Its handler raises `Cancelled` wherever that thread is, in a computation, a sleep or a wait; but not
within the lock, where it could tear a message in two: there it is raised on leaving.
"""

from __future__ import annotations

import signal
import threading

from torpor.sdk.errors import Cancelled


class Critical:
    """The runtime's lock, which a cancellation of the main thread cannot tear open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._main = threading.main_thread().ident
        self.inside = False  # the main thread holds the lock or is about to
        self.entering: set[int] = set()  # threads that wait for the lock
        self.cancelled: Cancelled | None = None  # to be raised when it has left

    def __enter__(self) -> None:
        ident = threading.get_ident()
        if ident == self._main:
            self.inside = True
        self.entering.add(ident)
        self._lock.acquire()
        self.entering.discard(ident)

    def __exit__(self, *raised: object) -> None:
        self._lock.release()
        if threading.get_ident() == self._main:
            self.inside = False
            if self.cancelled is not None:
                due, self.cancelled = self.cancelled, None
                raise due


def cancel_signal() -> int:
    """An unusual one, so that agents may use all the usual ones; where there is none, the one that
    agents use least."""
    return signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
