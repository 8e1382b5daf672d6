"""What runs recorded and printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torpor.contextlog import entries, reading, runs
from torpor.core.ids import RunId
from torpor.logstore.protocol import Store
from torpor.service.logs import Entry, LogPage
from torpor.service.shapes import reply
from torpor.worker.beside import Beside


class Logs:
    """See `torpor.service.logs.Logs`."""

    def __init__(self, store: Store, beside: Beside) -> None:
        self._store, self._beside = store, beside

    async def read(
        self, ref: str, after: int, limit: int, kinds: Sequence[str] | None = None
    ) -> LogPage:
        page = await self._store.read(
            lambda c: entries.read_page(c, runs.get_run(c, ref).id, after, kinds, limit)
        )
        return LogPage([reply(Entry, each) for each in page.entries], page.more)

    async def begin(
        self,
        ref: str,
        kinds: Sequence[str] | None = None,
        tail: int | None = None,
        since: float | None = None,
    ) -> int:
        return await self._store.read(
            lambda c: reading.begin(c, runs.get_run(c, ref).id, kinds=kinds, tail=tail, since=since)
        )

    async def changed(self, run: str) -> None:
        with self._store.subscribe(RunId(run)) as subscription:
            await subscription.wait()

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        run = await self._store.read(lambda c: runs.get_run(c, ref))
        return self._beside.whole(self._store, run.id, stream, offset)
