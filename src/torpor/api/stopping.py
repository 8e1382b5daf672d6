"""The server's way down: asked for by a signal or by requests, told to all who asked, done once.

First the service hands its runs over, which takes some time; requests are answered meanwhile. Then
`closing` is set: streams end, and the process (`torpor.api.server`) follows. Who cannot wait for
the first part sets it at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

log = logging.getLogger("torpor.api")

Tell = Callable[[str], None]


class Stop:
    def __init__(self, hand_over: Callable[[Tell], Awaitable[None]]) -> None:
        self.closing = asyncio.Event()
        self._hand_over = hand_over
        self._handing: asyncio.Task[None] | None = None
        self._told: list[str] = []
        self._listeners: list[Tell] = []

    @property
    def asked(self) -> bool:
        return self._handing is not None

    async def ask(self, tell: Tell = lambda words: None) -> None:
        """Stop. Returns when all is handed over; `tell` hears of all that is done for that, also
        of what was done before it asked."""
        for words in self._told:
            tell(words)
        self._listeners.append(tell)
        if self._handing is None:
            self._handing = asyncio.create_task(self._hand_all_over())
        await asyncio.shield(self._handing)

    async def _hand_all_over(self) -> None:
        try:
            await self._hand_over(self._tell)
        except Exception:  # ours to mend; what was not handed over is recovered
            log.exception("runs could not be handed over")
        finally:
            self.closing.set()

    def _tell(self, words: str) -> None:
        log.info("%s", words)
        self._told.append(words)
        for tell in self._listeners:
            tell(words)
