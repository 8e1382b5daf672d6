"""How long an operation that comes early is held (`torpor.replay.journal`): until somebody uses a
record, or nobody seems to be left who could.

Who is left cannot be known: threads may be anywhere. It is taken to be nobody once the process has
been *quiet* for some time: no operation began or ended, no step's body is at work, and it hardly
computed, nor waited for a processor, as on a busy host it may for long. The threads in which held
operations wait and look do not count, nor how long a loop with such tasks waits for a processor,
since it gets one: on a busy host all would see nothing but each other. What computes for ever
without an operation does not put that off for ever. In an event loop's thread, plain code can be
held only as long as the loop may stand still, and that only if there are other threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TypeAlias, TypeVar

from torpor.replay.journal import Early
from torpor.sdk.lines import in_event_loop
from torpor.sdk.rest import worked_s

# For what the operation would diverge else; and what it would be given else, or in a loop's thread.
QUIET_S, QUIET_SHORT_S = 60.0, 2.0
NEVER_QUIET_S = 600.0
# Where the code is known to be another than what was recorded, a difference is the likelier, and
# somebody looks on.
RELOADED_S, RELOADED_NEVER_QUIET_S = (0.25, 0.25), 3.0
_COMPUTES = 0.1  # of the time
_LOOKS = 20

T = TypeVar("T")


class Holding:
    """What is held; all but `moves` under the runtime's lock. `at_work` says whether a step's body
    is running."""

    def __init__(self, at_work: Callable[[], bool]) -> None:
        self.at_work = at_work
        self.patience: tuple[float, float] | None = None  # instead of QUIET_SHORT_S, QUIET_S
        self.never_quiet_s = NEVER_QUIET_S
        self.moves = 0  # operations that began or ended
        # The native ids of threads that are held, and of those whose loops have tasks that are.
        self.blocked: set[int] = set()
        self.looking: set[int] = set()
        self._held: list[Held] = []

    def expect_others(self) -> None:
        """The agent's code is not what it was when the log was written."""
        self.patience, self.never_quiet_s = RELOADED_S, RELOADED_NEVER_QUIET_S

    def hold(self, early: Early, before: Held | None) -> Held:
        """What was held `before` for the same reason is so for as long already."""
        if before is None or before.early.alike is not early.alike:
            before = Held(early, self)
        before.changed = Future()
        self._held.append(before)
        return before

    def moved(self, *, journal: bool = False) -> None:
        """Something began or ended; or the `journal` is another, so that what is held may not be
        early any more."""
        self.moves += 1
        if journal:
            held, self._held = self._held, []
            for each in held:
                if each.changed.set_running_or_notify_cancel():
                    each.changed.set_result(None)


@dataclass
class Held:
    """One operation, while it is held."""

    early: Early
    of: Holding
    late: Early | None = None  # nobody came
    changed: Future[None] = field(default_factory=Future)
    _began: float = field(default_factory=time.monotonic)
    _since: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)
    _moved: int = -1
    _worked_s: dict[int, float] = field(default_factory=worked_s)

    def block(self) -> None:
        """In this thread, until something changed or it is late."""
        quiet_s = self._quiet_s
        if in_event_loop():
            quiet_s = self._patience[0] if threading.active_count() > 1 else 0.0
        self.of.blocked.add(threading.get_native_id())
        try:
            while not self._is_late(quiet_s):
                with contextlib.suppress(TimeoutError):
                    self.changed.result(quiet_s / _LOOKS)
                    return
        finally:
            self.of.blocked.discard(threading.get_native_id())

    async def wait(self) -> None:
        """The same, in this task."""
        changed = asyncio.wrap_future(self.changed)
        self.of.looking.add(threading.get_native_id())
        try:
            while not self._is_late(self._quiet_s):
                done, _ = await asyncio.wait({changed}, timeout=self._quiet_s / _LOOKS)
                if done:
                    return
        finally:
            changed.cancel()  # the loop may be closed when something changes

    @property
    def _quiet_s(self) -> float:
        return self._patience[0 if self.early.alike else 1]

    @property
    def _patience(self) -> tuple[float, float]:
        return self.of.patience or (QUIET_SHORT_S, QUIET_S)

    def _is_late(self, quiet_s: float) -> bool:
        now, moved = time.monotonic(), self.of.moves
        before, worked = self._worked_s, worked_s(self.of.blocked, self.of.looking)
        others_s = sum(each - before.get(thread, 0.0) for thread, each in worked.items())
        moves = moved != self._moved or self.of.at_work()
        if moves:
            self._began = now
        if moves or others_s > _COMPUTES * (now - self._looked):
            self._since = now
        self._looked, self._worked_s, self._moved = now, before | worked, moved
        late = now - self._since >= quiet_s or now - self._began >= self.of.never_quiet_s
        self.late = self.early if late else None
        return late


# Gives what is to be held before it goes on, and returns what has begun.
Beginning: TypeAlias = Generator[Held, None, T]


def begun(beginning: Beginning[T]) -> T:
    try:
        while True:
            next(beginning).block()
    except StopIteration as end:
        value: T = end.value
        return value


async def begun_in_task(beginning: Beginning[T]) -> T:
    try:
        while True:
            await next(beginning).wait()
    except StopIteration as end:
        value: T = end.value
        return value
