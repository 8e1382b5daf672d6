"""Ended runs, deleted: because somebody asks, or since they are older, or take more, than the host
is to keep (`torpor retention`; by default it keeps all).

One at a time, each in one transaction (`torpor.contextlog.deletion`), then its files: of snapshots
and results that are sealed with its key, and so nobody else's, at once; others by the next
collection of garbage. Free pages of the database are given back little by little.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil

from sqlalchemy import Connection

from torpor.contextlog import deletion, settings
from torpor.contextlog.deletion import Gone, Unused
from torpor.control.storage.storage import Storage
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.core.ids import RunId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.retention import KEEP_ALL, Retention
from torpor.logstore.protocol import Store
from torpor.worker.beside import Beside

log = logging.getLogger(__name__)

_SETTING = "retention"


class Deleting:
    def __init__(
        self,
        home: Home,
        store: Store,
        storage: Storage,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._clock, self._limits = clock, limits
        self._home, self._store, self._storage = home, store, storage
        self._one = asyncio.Lock()
        self._changed = asyncio.Event()
        self._to_give_back = asyncio.Event()

    async def delete(self, ref: str) -> RunId:
        """Raises NotFound, Conflict (it has not ended; others need it), HostError."""
        gone = await self._delete(ref)
        await self._store.scrub()
        return gone.run

    async def retention(self) -> Retention:
        return await self._store.read(_retention)

    async def retain(self, retention: Retention) -> None:
        """Keep ended runs so long from now on."""
        text = retention.to_text()
        await self._store.write(lambda c: settings.write(c, _SETTING, text))
        self._changed.set()

    async def tend(self) -> None:
        """Keep to it, for ever."""
        await asyncio.gather(self._expire_now_and_then(), self._give_back())

    async def expire(self) -> int:
        """Delete what is not to be kept any more; how many runs that were."""
        count = 0
        while some := await self._store.read(self._expired):
            for run in some:
                await self._delete(run)
            count += len(some)
        if count:
            await self._store.scrub()
        return count

    async def _expire_now_and_then(self) -> None:
        while True:
            self._changed.clear()
            try:
                if count := await self.expire():
                    log.info("%d runs were deleted, as the host's retention says", count)
            except TorporError as error:
                log.warning("retention: %s", error.message)
            except Exception:  # ours to mend; the next time may be another matter
                log.exception("retention failed")
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(self._limits.retention_look_s):
                    await self._changed.wait()

    async def _give_back(self) -> None:
        while True:
            await self._to_give_back.wait()
            self._to_give_back.clear()
            try:
                await self._store.give_back()
            except TorporError as error:
                log.warning("free pages of the database stay: %s", error.message)

    def _expired(self, c: Connection) -> list[RunId]:
        kept, now = _retention(c), self._clock.now()
        if kept.age_s is not None:
            old = deletion.deletable(c, now, self._limits.deleted_at_once, now - kept.age_s)
            if old:
                return old
        if kept.log_bytes is not None and self._store.used_bytes(c) > kept.log_bytes:
            return deletion.deletable(c, now, 1, None)
        return []

    async def _delete(self, ref: str) -> Gone:
        async with self._one:
            run = (await self._store.read(lambda c: deletion.check(c, ref))).id
            unused: Unused = await self._store.read(lambda c: deletion.mark(c, run))
            gone = await self._store.write(lambda c: deletion.delete_run(c, run, unused))
            self._to_give_back.set()
            await self._storage.remove(gone.manifests, gone.values)
            for path in self._home.files_of(run):
                await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
            await asyncio.to_thread(Beside(self._home.output).remove, run)
            return gone


def _retention(c: Connection) -> Retention:
    text = settings.read(c, _SETTING)
    return KEEP_ALL if text is None else Retention.of_text(text)
