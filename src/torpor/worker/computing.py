"""How long a run computes: a machine that stays up while its agent only waits does not count.

The log counts how long a run has a machine (`torpor.contextlog.deadlines`); what of that was rest
only the driver knows, and tells: with the next thing that is written once it is worth it, and with
a suspension. A machine that is lost takes with it what was not told, at most its last wait.
"""

from __future__ import annotations

import asyncio
import time

from sqlalchemy import Connection

from torpor.contextlog import deadlines
from torpor.contextlog.runs import RunRow
from torpor.core.errors import Overran
from torpor.worker.pen import Pen, Refused, Write
from torpor.worker.standing import Standing

WORTH_S = 1.0


class Computing:
    """Of one driver's run; `row` is as it was before its claim."""

    def __init__(self, pen: Pen, row: RunRow, standing: Standing, heard: asyncio.Event) -> None:
        self._pen, self._row, self._standing, self._heard = pen, row, standing, heard
        self._told_s = 0.0
        self._overran = False  # perhaps: to be looked at

    def overran(self) -> None:
        """The run takes too long, unless it has only waited."""
        self._overran = True
        self._heard.set()

    async def look(self) -> None:
        """Raises Refused if the run has overrun a limit."""
        if not self._overran:
            return
        self._overran = False
        said: list[str | None] = []

        def look(c: Connection) -> None:
            said.append(deadlines.overrun(c, self._row.id, time.time()))

        await self._pen.write(self.tell, look)
        if (message := said[-1]) is not None:
            raise Refused(Overran(message))

    def untold(self) -> list[Write]:
        """What is to be written beside other things."""
        return [self.tell] if self._standing.rested_s - self._told_s >= WORTH_S else []

    def tell(self, c: Connection) -> None:
        """Write how long the run has only waited: a sum, so that it may be told twice."""
        rested_s = self._standing.rested_s
        waited_s = self._row.waited_s + rested_s
        deadlines.waited(c, self._row.id, self._pen.epoch, waited_s, time.time())
        self._told_s = rested_s
