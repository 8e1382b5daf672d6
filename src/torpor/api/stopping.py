"""The server's way down: requested by a signal or over HTTP, reported to everyone who requested it,
done once.

First the service hands its runs over, which takes some time; requests are answered meanwhile. Then
`closing` is set: streams end, and the process (`torpor.api.server`) follows. A second signal sets
it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("torpor.api")

Report = Callable[[str], None]


class Stop:
    def __init__(self, hand_over: Callable[[Report], Awaitable[None]]) -> None:
        self.closing = asyncio.Event()
        self._hand_over = hand_over
        self._handing: asyncio.Task[None] | None = None
        self._reported: list[str] = []
        self._listeners: list[Report] = []

    @property
    def requested(self) -> bool:
        return self._handing is not None

    async def request(self, report: Report = lambda words: None) -> None:
        """Stop. Returns when everything is handed over; `report` gets what is done for that, from
        its beginning."""
        for words in self._reported:
            report(words)
        self._listeners.append(report)
        if self._handing is None:
            self._handing = asyncio.create_task(self._hand_all_over())
        await asyncio.shield(self._handing)

    async def _hand_all_over(self) -> None:
        try:
            await self._hand_over(self._report)
        except Exception:  # ours to mend; what was not handed over is recovered
            log.exception("runs could not be handed over")
        finally:
            self.closing.set()

    def _report(self, words: str) -> None:
        log.info("%s", words)
        self._reported.append(words)
        for report in self._listeners:
            report(words)
