"""Recorded answers whose bodies do not fit into the log's entries, on their way to the guest again.

Such a body is a value of the run's (`torpor.worker.values`). Results and journals say how long it
is, and the guest asks for what its client lacks with ATTACH, as it does for a call under way: now,
in a replay, or after a thaw. It comes as frames, in the window that the guest gives, so that no
more of it is in a machine than its client takes.

What has moved within the last seconds keeps the machine awake. Frozen all the same, the guest asks
again when it thaws.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from torpor.contextlog import entries
from torpor.core.bodies import stored_body
from torpor.core.errors import TorporError
from torpor.core.ids import OpId
from torpor.policy.freeze import Stay
from torpor.wire.streams import DATA, DATA_BYTES, RESET, WINDOW, WINDOW_BYTES, Frame
from torpor.worker.network import IDLE_S
from torpor.worker.tasks import Tasks
from torpor.worker.values import Values
from torpor.worker.way import Way


@dataclass
class _Served:
    number: int
    given: int  # the guest has the bytes up to here
    window: int
    moved: float  # monotonic
    gone: bool = False  # its client
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Serving:
    """Of one driver."""

    def __init__(self, way: Way, values: Values, tasks: Tasks) -> None:
        self._way, self._values, self._tasks = way, values, tasks
        self._served: dict[int, _Served] = {}

    def attach(self, number: int, op: OpId, offset: int) -> None:
        """The guest has so much of the answer that is recorded for `op`, and wants the rest on this
        stream. Nothing happens if that answer is another: then its result is on its way."""
        self._drop(number)
        now = self._way.clock.monotonic()
        served = self._served[number] = _Served(number, offset, offset + WINDOW_BYTES, now)
        self._tasks.spawn(self._serve(served, op))

    def take(self, frame: Frame) -> bool:
        """Of the guest's; False if it is of no stream that is served here."""
        served = self._served.get(frame.stream)
        if served is None:
            return False
        if frame.kind == WINDOW:
            # No more than that is on its way to one who does not read.
            served.window = max(served.window, min(frame.offset, served.given + WINDOW_BYTES))
            served.moved = self._way.clock.monotonic()
            served.changed.set()
        elif frame.kind == RESET:
            self._drop(frame.stream)
        return True

    def stay(self) -> Stay | None:
        """Why the machine may not be frozen, for now."""
        if not self._served:
            return None
        idle = self._way.clock.monotonic() - max(each.moved for each in self._served.values())
        return Stay("an answer is on its way", IDLE_S - idle) if idle < IDLE_S else None

    async def leave(self) -> None:
        await self._tasks.cut_off()

    async def _serve(self, served: _Served, op: OpId) -> None:
        run = self._way.run
        try:
            ended = await self._way.store.read(lambda c: entries.read_end(c, run, op))
            body = stored_body((ended or {}).get("value"))
            if body is None:
                return
            at = 0
            content = await self._values.content(run, body.digest)
            while not served.gone and (chunk := await asyncio.to_thread(next, content, None)):
                if served.given < at + len(chunk):
                    await self._pass_on(served, chunk[served.given - at :])
                at += len(chunk)
        except TorporError as error:
            message = f"the recorded answer cannot be read: {error.message}"
            self._way.say(RESET, served.number, {"code": "lost", "message": message[:1000]})
        finally:
            if self._served.get(served.number) is served:
                del self._served[served.number]

    async def _pass_on(self, served: _Served, data: bytes) -> None:
        done = 0
        while done < len(data):
            if served.gone:
                return
            room = min(served.window - served.given, DATA_BYTES)
            if room <= 0:
                served.changed.clear()
                await served.changed.wait()
                continue
            piece = data[done : done + room]
            self._way.say_at(DATA, served.number, served.given, piece)
            served.given += len(piece)
            served.moved = self._way.clock.monotonic()
            done += len(piece)

    def _drop(self, number: int) -> None:
        served = self._served.pop(number, None)
        if served is not None:
            served.gone = True
            served.changed.set()
