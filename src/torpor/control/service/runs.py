"""Runs: started, listed, ended, continued as others."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from sqlalchemy import Connection

from torpor.contextlog import runs
from torpor.contextlog.runs import RunRow
from torpor.contextlog.upgrades import upgrade_run
from torpor.control.engines import Engines, Shared
from torpor.control.service.agents import choose
from torpor.control.service.deleting import Deleting
from torpor.control.service.details import Details
from torpor.control.service.forking import Forking
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import HostError
from torpor.core.ids import OpId
from torpor.core.states import FINAL, RunState
from torpor.policy.inputs import check_input
from torpor.service.runs import (
    ALL_RUNS,
    Deleted,
    ForkRequest,
    Run,
    RunDetail,
    RunFilter,
    RunRequest,
)
from torpor.service.shapes import reply
from torpor.worker.cancelling import CANCELLED


class Created:
    """A new run becomes a reply, and is claimed soon: its engine is made ready."""

    def __init__(self, engines: Engines, clock: Clock = SYSTEM_CLOCK) -> None:
        self._engines, self._clock = engines, clock

    def __call__(self, row: RunRow) -> Run:
        self._engines.ready_soon(row.engine)
        return reply(Run, row.to_json(self._clock.now()))


class Runs:
    """See `torpor.service.runs.Runs`."""

    def __init__(
        self,
        shared: Shared,
        engines: Engines,
        details: Details,
        forking: Forking,
        deleting: Deleting,
    ) -> None:
        self._store, self._engines, self._details = shared.store, engines, details
        self._forking, self._deleting = forking, deleting
        self._files, self._values, self._on_end = shared.files, shared.values, shared.on_end
        self._clock, self._limits = shared.clock, shared.limits
        self._created = Created(engines, shared.clock)

    async def start(self, request: RunRequest) -> Run:
        chosen = await self._store.read(
            lambda c: choose(c, request.agent, request.version, request.engine)
        )
        await asyncio.to_thread(check_input, chosen.agent, request.input)
        await self._files.check(chosen.row, request.files)
        row = await self._store.write(
            lambda c: runs.create_run(
                c,
                version=chosen.row.version,
                agent=chosen.agent["name"],
                input=request.input,
                id_key=request.id_key,
                start=request.start,
                cause=request.by,
                files=request.files,
                now=self._clock.now(),
            )
        )
        return self._created(row)

    async def list(self, filter: RunFilter = ALL_RUNS) -> Sequence[Run]:
        states = None if filter.states is None else [RunState(state) for state in filter.states]
        now = self._clock.now()

        def read(c: Connection) -> Sequence[Run]:
            oldest = None if filter.before is None else runs.get_run(c, filter.before).id
            rows = runs.list_runs(
                c, states, filter.limit, oldest, agent=filter.agent, text=filter.text
            )
            why = self._details.why_queued(c, rows, now)
            under = self._details.asleep_under(c, rows)
            return [
                reply(
                    Run,
                    row.to_json(now),
                    queued_because=why.get(row.id),
                    asleep_under=under.get(row.id, []),
                )
                for row in rows
            ]

        return await self._store.read(read)

    async def find(self, ref: str) -> Run:
        row = await self._store.read(lambda c: runs.get_run(c, ref))
        return reply(Run, row.to_json(self._clock.now()))

    async def get(self, ref: str) -> RunDetail:
        return await self._details.get(ref)

    async def cancel(self, ref: str) -> Run:
        run = (await self._store.read(lambda c: runs.get_run(c, ref))).id

        def cancel(c: Connection) -> RunRow:
            if runs.get_run(c, run).state is RunState.RUNNING:
                return runs.request_cancel(c, run, self._clock.now())
            return runs.transition(
                c, run, None, RunState.CANCELLED, self._clock.now(), error=CANCELLED
            )

        with self._store.subscribe(run) as subscription:
            row = await self._store.write(cancel)
            try:
                async with self._clock.timeout(self._limits.cancel_wait_s):
                    while row.state not in FINAL:
                        # Each time: the run may have got another driver, or have been suspended.
                        scheduler = self._engines.scheduler
                        if scheduler is not None and run in scheduler.drivers:
                            scheduler.drivers[run].cancel()
                        await subscription.wait()
                        row = await self._store.read(lambda c: runs.get_run(c, run))
                        if row.state is RunState.SUSPENDED:
                            row = await self._store.write(cancel)
            except TimeoutError as error:
                raise HostError(
                    f"{run} has not ended {self._limits.cancel_wait_s:g} s after it was cancelled",
                    hint="The cancellation stands; look again later.",
                ) from error
        self._on_end()
        return reply(Run, row.to_json(self._clock.now()))

    async def fork(self, ref: str, request: ForkRequest) -> Run:
        return self._created(await self._forking.fork(ref, request))

    async def retry(self, ref: str, version: str | None = None) -> Run:
        return self._created(await self._forking.retry(ref, version))

    async def reload(self, ref: str, version: str, *, fresh: bool) -> RunDetail:
        row = await self._forking.reload(ref, version, fresh=fresh)
        self._created(row)
        self._on_end()
        return await self.get(row.id)

    async def upgrade(self, ref: str, version: str | None = None) -> Run:
        now = self._clock.now()
        write = self._store.write(lambda c: upgrade_run(c, ref, version, check_input, now))
        return self._created(await write)

    async def delete(self, ref: str) -> Deleted:
        return reply(Deleted, id=await self._deleting.delete(ref), deleted=True)

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        run = await self._store.read(lambda c: runs.get_run(c, ref))
        return await self._values.result(run.id, OpId(op))
