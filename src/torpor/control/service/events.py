"""Events: what others send to runs that wait, or will wait, for it by name."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import events, runs
from torpor.control.service.waits import AnswerWriter
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.service.events import Sent
from torpor.service.shapes import reply


class Events:
    """See `torpor.service.events.Events`."""

    def __init__(self, writer: AnswerWriter, clock: Clock = SYSTEM_CLOCK) -> None:
        self._writer, self._clock = writer, clock

    async def send(
        self, ref: str, name: str, data: Any, *, by: str | None = None, id: str | None = None
    ) -> Sent:
        def write(c: Connection) -> events.Sent:
            run = runs.get_run(c, ref).id
            return events.send_event(c, run, name, data, now=self._clock.now(), by=by, event=id)

        sent = await self._writer.write(write)
        return reply(
            Sent,
            run=sent.run,
            seq=sent.seq,
            name=name,
            wait=sent.taken and sent.taken.id,
            again=sent.again,
        )
