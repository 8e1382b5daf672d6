"""Runs as files: exported, and imported from elsewhere."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import BinaryIO, cast

from sqlalchemy import Connection

from torpor.contextlog.authorities import put_foreign
from torpor.contextlog.runs import RunRow
from torpor.contextlog.transfer import refuse_known
from torpor.control.engines import Engines, Shared
from torpor.control.service.runs import Created
from torpor.control.storage import transfer
from torpor.core.ids import RunId
from torpor.service.runs import Run


class Transfers:
    """See `torpor.service.runs.Transfers`."""

    def __init__(self, shared: Shared, engines: Engines) -> None:
        self._home, self._store, self._blobs = shared.home, shared.store, shared.blobs
        self._keys, self._values, self._files = shared.keys, shared.values, shared.files
        self._engines, self._created = engines, Created(engines, shared.clock)
        self._clock, self._authorities = shared.clock, shared.authorities

    async def export(self, ref: str, snapshot: str | None = None) -> Iterator[bytes]:
        spool = await asyncio.to_thread(tempfile.TemporaryFile, dir=self._home.run)
        try:
            rows = await self._store.read(
                lambda c: transfer.read_contents(c, ref, snapshot, cast(BinaryIO, spool))
            )
            key = await self._keys.find(rows.run)
            opening = await transfer.keys_of(rows, self._values, self._keys)
            trusted = await self._authorities.all()
            now = self._clock.now()
            return await asyncio.to_thread(
                transfer.export, self._home, self._blobs, rows, key, opening, trusted, now
            )
        except BaseException:
            spool.close()
            raise

    async def import_run(self, chunks: AsyncIterator[bytes]) -> Run:
        taken = transfer.Import(self._home, self._blobs, self._clock)
        try:
            await asyncio.to_thread(taken.begin, transfer.arriving(chunks))
            await self._store.read(lambda c: refuse_known(c, taken.run))
            if taken.needs is not None:
                (await self._engines.machines(taken.needs.engine)).fit.require_image(taken.needs)
            await asyncio.to_thread(partial(taken.store, seal_files=self._keys.on))
            run, key = RunId(taken.run["id"]), taken.key
            wrapped = None if key is None else await self._keys.wrapped(run, key)
            given = [await self._files.row_of(*each) for each in taken.files]
            trusted = [await self._authorities.row_of(each) for each in taken.authorities]

            def record(c: Connection) -> RunRow:
                for authority in trusted:
                    put_foreign(c, authority)
                return taken.record(c, wrapped, given)

            row = await self._store.write(record)
        finally:
            taken.close()
        return self._created(row)
