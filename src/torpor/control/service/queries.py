"""SQL over runs and logs, and queries that people saved."""

from __future__ import annotations

from collections.abc import Sequence

from torpor.contextlog import saved
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.home import Home
from torpor.core.prices import Prices
from torpor.logstore.protocol import Store
from torpor.query.ask import Asking, Question
from torpor.service.queries import Rows, SavedQuery
from torpor.service.shapes import reply
from torpor.worker.way import price_unknown


class Queries:
    """See `torpor.service.queries.Queries`."""

    def __init__(self, home: Home, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._home, self._store, self._clock = home, store, clock
        self._asking = Asking(home.database)

    async def ask(self, question: Question) -> Rows:
        prices = Prices.load(self._home.prices, price_unknown(self._home))
        found = await self._asking.ask(question, prices)
        return reply(Rows, found.to_json())

    async def list(self) -> Sequence[SavedQuery]:
        found = await self._store.read(saved.saved_queries)
        return [reply(SavedQuery, each.to_json()) for each in found]

    async def save(self, name: str, sql: str) -> SavedQuery:
        write = self._store.write(lambda c: saved.save_query(c, name, sql, self._clock.now()))
        return reply(SavedQuery, (await write).to_json())

    async def delete(self, name: str) -> None:
        await self._store.write(lambda c: saved.delete_query(c, name))
