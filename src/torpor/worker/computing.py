"""How long a run computes: a machine that stays up while its agent only waits does not count.

The log counts how long a run has a machine (`torpor.contextlog.deadlines`); what of that was rest
only the driver knows, and records: with the next thing that is written once it is worth it, and
with a suspension. A machine that is lost takes with it what was not recorded: its last wait, at
most.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection

from torpor.contextlog import deadlines
from torpor.contextlog.runs import RunRow
from torpor.core.clock import Clock
from torpor.core.errors import Overran
from torpor.worker.pen import Pen, Refused, Write
from torpor.worker.standing import Standing


class Computing:
    """Of one driver's run; `row` is as it was before its claim."""

    def __init__(
        self,
        pen: Pen,
        row: RunRow,
        standing: Standing,
        changed: asyncio.Event,
        clock: Clock,
        worth_s: float,
    ) -> None:
        self._clock, self._worth_s = clock, worth_s
        self._pen, self._row, self._standing, self._changed = pen, row, standing, changed
        self._recorded_s = 0.0
        self._overran = False  # perhaps: to be looked at

    def overran(self) -> None:
        """The run takes too long, unless it has only waited."""
        self._overran = True
        self._changed.set()

    async def look(self) -> None:
        """Raises Refused if the run has overrun a limit."""
        if not self._overran:
            return
        self._overran = False
        for overrun in await self._pen.write(
            self.record, lambda c: deadlines.overrun(c, self._row.id, self._clock.now())
        ):
            raise Refused(Overran(overrun))

    def unrecorded(self) -> list[Write]:
        """What is to be written beside other things."""
        return [self.record] if self._standing.rested_s - self._recorded_s >= self._worth_s else []

    def record(self, c: Connection) -> None:
        """Write how long the run has only waited: a sum, so that it may be written twice."""
        rested_s = self._standing.rested_s
        waited_s = self._row.waited_s + rested_s
        deadlines.waited(c, self._row.id, self._pen.epoch, waited_s, self._clock.now())
        self._recorded_s = rested_s
