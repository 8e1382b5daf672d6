"""The agent's runtime in a test: the real one, but for what only a process of its own could do.

It stands on a channel to a host in the same process. The agent's main line is whatever thread runs
it; threads that were there before it are none of its; nothing is frozen, and a cancellation, by
which a test gives a run up, reaches who waits, but interrupts nobody.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Literal, NamedTuple

from torpor.replay.journal import Divergence, Intent, Match, Recorded
from torpor.sdk import current, looptime, rest
from torpor.sdk.endpoint import Endpoint
from torpor.sdk.errors import Cancelled
from torpor.sdk.operations import Operation, inside
from torpor.sdk.runtime import AT_WORK, Runtime
from torpor.testing.clock import LoopClock

# How long what comes early in a replay is held, in seconds: all of a test's threads are near.
_PATIENCE = 0.5, 2.0


class Pause(NamedTuple):
    """A step waits so long for its next attempt."""

    duration_s: float
    over: Future[None]


class Channel:
    """What the agent says, and the lines that the host answers."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[bytes | Pause | None] = SimpleQueue()
        self.lines: Iterator[bytes] = iter(())

    def sendall(self, data: bytes, /) -> None:
        self.inbox.put(data)

    def makefile(self, mode: Literal["rb"], /) -> Channel:
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self.lines

    def readline(self) -> bytes:
        raise NotImplementedError("a test never stands still")

    def fileno(self) -> int:
        return -1


class Further(Divergence):
    """The agent goes on where its log says that it has ended."""

    def __init__(self, intent: Intent) -> None:
        end = Recorded(op="end", kind="end", name="end", digest="")
        super().__init__(end, intent)
        at = f" at {intent.at}" if intent.at else ""
        self.args = (
            "the agent does not do what its log says\n"
            "  recorded: nothing more: the agent had ended\n"
            f"  now:      {intent.kind} {intent.name} (arguments {intent.digest[:8]}){at}",
        )
        self.message = self.args[0]


class PlayedRuntime(Runtime):
    machine = False

    def __init__(
        self,
        channel: Channel,
        clock: LoopClock,
        foreign: Collection[threading.Thread],
        journal: Iterable[Recorded],
        *,
        complete: bool,
    ) -> None:
        """With `complete`, the log of `journal` has all that the agent does."""
        super().__init__(channel, -1)
        self._channel, self._clock = channel, clock
        self._records, self._complete = list(journal), complete
        self._paused: set[str] = set()
        self._foreign = {each.ident for each in foreign}
        self._holding.patience = _PATIENCE
        self._endpoint = Endpoint(self.send, _give_up, lambda _: None)
        self.lines.main_thread = threading.current_thread()
        self.lines.own |= {*foreign, self._endpoint.thread} - {self.lines.main_thread}
        self._watch = rest.Watch(self.lines.own, self._critical.entering, rest.there_already())

    def listen(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """The run is over, whoever of the agent still waits."""
        self._channel.inbox.put(None)
        self._thread.join()
        self._endpoint.close()
        self.running = False
        for each in tuple(self._pending.values()):
            if each.future.set_running_or_notify_cancel():
                each.future.set_exception(Cancelled("the run has ended"))

    @property
    def environment(self) -> Mapping[str, str]:
        return self._endpoint.model

    # ---- what the host asks ----

    def look(self) -> rest.Rest:
        return self._watch.look(0.0)

    def works(self) -> bool:
        """Whether the body of a step is at work, or anything else that takes real time."""
        pending = tuple(self._pending.values())
        return any(each.kind in AT_WORK and each.op not in self._paused for each in pending)

    def expects(self) -> bool:
        """Whether an event loop of the agent waits for more than its timers: a connection, a
        pipe."""
        loops = looptime.running_loops()
        return any(_expects(loops[ident]) for ident in loops.keys() - self._foreign)

    def moved_on(self) -> None:
        """The clock has skipped."""
        self._watch.stir()
        looptime.nudge_loops()

    # ---- what is otherwise than in a process of its own ----

    def time(self) -> float:
        return self._clock.now()

    def pause(self, duration_s: float) -> None:
        self._pausing(duration_s).result()
        self._paused.discard(_step())

    async def pause_task(self, duration_s: float) -> None:
        await asyncio.wrap_future(self._pausing(duration_s))
        self._paused.discard(_step())

    def _pausing(self, duration_s: float) -> Future[None]:
        pause = Pause(duration_s, Future())
        self._paused.add(_step())
        self._channel.inbox.put(pause)
        return pause.over

    def send(self, message: bytes) -> None:
        """From the thread of the model's endpoint."""
        with self._critical:
            self._send(message)

    def body(self, operation: Operation, *, begins: bool) -> None:
        pass  # what it does to files stays

    def _begin(
        self,
        intent: Intent,
        match: Match,
        data: Mapping[str, Any],
        once: bool,
        held: list[bytes] | None,
    ) -> Operation:
        if self._complete and match.record is None:
            self.diverged = Further(intent)
            raise self.diverged
        return super()._begin(intent, match, data, once, held)

    def _replay_step(self, operation: Operation, record: Recorded) -> None:
        if operation.fetched is None:
            operation.replayed = operation.own

    def _start(self, message: dict[str, Any]) -> None:
        message["journal"] = [each for each in self._records if each["kind"] != "model"]
        self._endpoint.give(self._records)
        super()._start(message)

    def _settle_in(self) -> None:
        pass

    def _result(self, message: dict[str, Any]) -> None:
        if message["op"].startswith("model:"):
            self._endpoint.give(message)
        else:
            super()._result(message)

    def _interrupt_main(self) -> None:
        pass

    def _over(self) -> None:
        pass


def _expects(loop: Any) -> bool:
    """By what asyncio's own loops are made of: a socket of their own wakes them."""
    selector, own = getattr(loop, "_selector", None), getattr(loop, "_ssock", None)
    if selector is None or own is None or (watched := selector.get_map()) is None:
        return False
    return any(each != own.fileno() for each in tuple(watched))


def _step() -> str:
    step = inside.get()
    return "" if step is None else step.op


def _forked() -> None:
    if current.swap(None) is not None:
        current.forked()


os.register_at_fork(after_in_child=_forked)


def _give_up() -> None:
    os.write(2, b"torpor.testing: the model's endpoint has failed\n")
