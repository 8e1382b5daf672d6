"""The runtime's lock, and the signal by which a cancellation reaches the main thread.

Its handler raises `Cancelled` wherever that thread is, in a computation, a sleep or a wait; but not
within the lock, where it could tear a message in two: there it is raised on leaving.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from torpor.sdk.errors import Cancelled

_SIGNAL_AGAIN_S = 0.05


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


class Cancelling:
    """A cancellation of the run, and how the main thread hears of it, once."""

    def __init__(self, critical: Critical) -> None:
        self.reason: str | None = None
        self._critical = critical
        self._raised = False

    def listen(self) -> None:
        signal.signal(cancel_signal(), self._on_signal)

    def interrupt(self) -> threading.Thread:
        """Have it raised in the main thread; the thread that sees to that."""
        thread = threading.Thread(target=self._signal_main, name="torpor-cancel", daemon=True)
        thread.start()
        return thread

    def noted(self) -> None:
        """A wait has raised it: in the main thread no signal does, which might meet its cleaning
        up."""
        if threading.get_ident() == threading.main_thread().ident:
            self._raised = True

    def _signal_main(self) -> None:
        """Until it was heard: one that comes just as the main thread goes to wait does not wake it,
        since Python looks for signals before that and after."""
        main = threading.main_thread().ident
        while main is not None and not self._raised:
            signal.pthread_kill(main, cancel_signal())
            time.sleep(_SIGNAL_AGAIN_S)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._raised or self.reason is None:
            return
        self._raised = True
        cancelled = Cancelled(self.reason)
        if self._critical.inside:
            self._critical.cancelled = cancelled
        else:
            raise cancelled


def cancel_signal() -> int:
    """An unusual one, so that agents may use all the usual ones; where there is none, the one that
    agents use least."""
    return signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else signal.SIGUSR2
