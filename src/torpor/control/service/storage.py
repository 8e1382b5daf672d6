"""What this deployment keeps on its disk: snapshots, garbage, backups, ended runs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection

from torpor.contextlog import runs, snapshots
from torpor.control.engines import Shared
from torpor.control.service.deleting import Deleting
from torpor.control.storage import storage
from torpor.control.storage.backup import back_up
from torpor.core.errors import NotFound
from torpor.core.retention import Retention
from torpor.logstore.protocol import Store
from torpor.service.shapes import reply
from torpor.service.storage import Backup, Collected, Kept, Snapshot, Verified


class Snapshots:
    """See `torpor.service.storage.Snapshots`."""

    def __init__(self, store: Store, keeper: storage.Storage) -> None:
        self._store, self._keeper = store, keeper

    async def list(self, ref: str) -> Sequence[Snapshot]:
        rows = await self._store.read(
            lambda c: snapshots.list_snapshots(c, runs.get_run(c, ref).id, reclaimed=True)
        )
        return [reply(Snapshot, row.to_json()) for row in rows]

    async def verify(self, ref: str) -> Verified:
        return reply(Verified, await self._keeper.verify(ref))

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> Snapshot:
        def write(c: Connection) -> snapshots.SnapshotRow:
            run, row = runs.get_run(c, ref), snapshots.get_snapshot(c, snapshot)
            if row.run != run.id:
                raise NotFound(f"{row.id} is not a snapshot of {run.id}")
            return snapshots.set_pinned(c, row.id, pinned)

        return reply(Snapshot, (await self._store.write(write)).to_json())


class Storage:
    """See `torpor.service.storage.Storage`."""

    def __init__(self, shared: Shared, keeper: storage.Storage, deleting: Deleting) -> None:
        self._home, self._store, self._blobs = shared.home, shared.store, shared.blobs
        self._clock = shared.clock
        self._keeper, self._deleting = keeper, deleting

    async def collect(self, dry_run: bool) -> Collected:
        return reply(Collected, await self._keeper.collect(dry_run=dry_run))

    async def back_up(self, directory: str, with_key: bool) -> Backup:
        async with self._keeper.undisturbed():
            facts = await asyncio.to_thread(
                back_up,
                self._home,
                self._blobs,
                self._store.copy_to,
                Path(directory),
                with_key=with_key,
                now=self._clock.now(),
            )
        return reply(Backup, facts)

    async def retention(self) -> Kept:
        return reply(Kept, (await self._deleting.retention()).to_json())

    async def retain(self, retention: Retention) -> Kept:
        await self._deleting.retain(retention)
        return await self.retention()
