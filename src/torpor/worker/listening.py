"""Runs that sleep under recorded calls, and what wakes them: the first bytes of an answer.

A run that is suspended under a call has no driver. The broker goes on with the call, and keeps what
comes of it; here somebody listens for the first that comes beyond what the run's machine had: bytes
of the answer, its end, or that no broker knows of the call. Then the run is woken, and no more: its
next driver attaches to the call (`torpor.worker.calls`). One that was woken for nothing looks, and
sleeps again.

The first bytes rather than the last: coming back takes about as long as a model's first words, and
the rest comes meanwhile; who watches the run sees the answer grow. A head without bytes wakes
nobody: it is sent by many before the model has begun. Nor do comments and pings in a stream of
events, which only keep its connection open.

What sleeps under calls is in the log (`contextlog.snapshots.under_calls`): a server that starts
listens for all of it, so that nothing sleeps for ever (rule 11).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from torpor.core.errors import HostError
from torpor.core.ids import OpId, RunId
from torpor.egress.client import BrokerClient
from torpor.wire.streams import DATA, HEAD, WINDOW
from torpor.worker.tasks import Tasks


class Listening:
    """`wake` is to make a run ready; what fails goes to `tasks`."""

    def __init__(
        self, broker: BrokerClient, wake: Callable[[RunId], Awaitable[Any]], tasks: Tasks
    ) -> None:
        self._broker, self._wake, self._tasks = broker, wake, tasks
        self._listeners: dict[RunId, asyncio.Task[None]] = {}

    def listen(self, run: RunId, calls: Mapping[OpId, int]) -> None:
        """For each of these calls of a run that was suspended, it had so many bytes."""
        self.leave(run)
        if calls:
            self._listeners[run] = self._tasks.spawn(self._listen(run, calls))

    def leave(self, run: RunId) -> None:
        """It is awake, or has ended."""
        listener = self._listeners.pop(run, None)
        if listener is not None:
            listener.cancel()

    async def _listen(self, run: RunId, calls: Mapping[OpId, int]) -> None:
        each = [asyncio.ensure_future(self._first(run, *call)) for call in calls.items()]
        try:
            await asyncio.wait(each, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for other in each:
                other.cancel()
            await asyncio.gather(*each, return_exceptions=True)
        await self._wake(run)

    async def _first(self, run: RunId, op: OpId, had: int) -> None:
        """Until something comes of it."""
        try:
            found = await self._broker.attach(run, op, had)
            if found is None:
                return
            stream, _ = found
            news = News()
            try:
                async for frame in stream:
                    if frame.kind == HEAD:
                        news = News(frame.fields["headers"])
                    elif frame.kind == DATA:
                        if news.feed(frame.data[max(0, had - frame.offset) :]):
                            return
                    elif frame.kind != WINDOW:
                        return
            finally:
                stream.leave()
        except HostError:  # the broker is gone, with the call
            return


class News:
    """Whether bytes of an answer have something that its client waits for. Of an event, its first
    whole line of data does, or the end of one that began before; else any byte."""

    def __init__(self, headers: Iterable[Sequence[str]] = ()) -> None:
        kinds = [value for name, value in headers if name.lower() == "content-type"]
        self._events = any(kind.lower().startswith("text/event-stream") for kind in kinds)
        self._line = b""  # the beginning of one that has not ended

    def feed(self, data: bytes) -> bool:
        if not self._events:
            return bool(data)
        *lines, rest = _LINE_END.split(self._line + data)
        self._line = rest[:_LINE_MAX]
        return len(rest) > _LINE_MAX or any(line and not _IDLE.match(line) for line in lines)


_LINE_END = re.compile(rb"\r\n|\r|\n")
_LINE_MAX = 1024  # longer ones are no pings
_IDLE = re.compile(rb':|(event|id|retry)(:|$)|data: ?\{\s*"type"\s*:\s*"ping"\s*\}\s*$')
