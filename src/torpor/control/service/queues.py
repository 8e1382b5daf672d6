"""Queues, as people see and change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from torpor.contextlog import queues
from torpor.contextlog.queues import STATES, QueueMoment, QueueRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Invalid
from torpor.core.rules import parse_limits
from torpor.core.starting import check_name
from torpor.logstore.protocol import Store
from torpor.service.queues import Queue, QueueChanges
from torpor.service.shapes import reply


class Queues:
    """See `torpor.service.queues.Queues`."""

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock

    async def list(self) -> list[Queue]:
        return [_queue(each.row, each.figures) for each in await self.moments()]

    async def moments(self) -> Sequence[QueueMoment]:
        return await self._store.read(lambda c: queues.moments(c, self._clock.now()))

    async def update(self, name: str, changes: QueueChanges) -> Queue:
        check_name(name, "queue")
        given = {key: value for key, value in changes.items() if key != "paused"}
        parse_limits({k: v for k, v in given.items() if v is not None}, f"queue {name}")
        if "paused" in changes and not isinstance(changes["paused"], bool):
            raise Invalid("paused must be true or false")

        def write(c: Connection) -> Queue:
            row = queues.set_queue(c, name, self._clock.now(), **changes)
            return _queue(row, queues.figures(c).get(name, {}))

        return await self._store.write(write)


def _queue(row: QueueRow, figures: Mapping[str, int]) -> Queue:
    return reply(Queue, vars(row), {str(state): figures.get(state, 0) for state in STATES})
