"""What people can ask for. The API calls these methods and nothing else.

The service opens the log at once, and engines when something needs them (`torpor.control.engines`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from prometheus_client.registry import Collector
from sqlalchemy import Connection

import torpor
from torpor.blobs.local import LocalBlobs
from torpor.contextlog import (
    agents,
    calls,
    deployments,
    entries,
    forks,
    reading,
    runs,
    saved,
    snapshots,
    waits,
)
from torpor.contextlog.conversation import spoken
from torpor.contextlog.deployments import Chosen, Preference
from torpor.contextlog.files import files_of
from torpor.contextlog.runs import RunRow
from torpor.contextlog.totals import totals
from torpor.contextlog.transfer import refuse_known
from torpor.contextlog.upgrades import upgrade_run
from torpor.control.engines import Engines, Shared
from torpor.control.observe import telemetry
from torpor.control.processes import stop_processes
from torpor.control.scheduler.claims import reasons
from torpor.control.scheduler.scheduler import Scheduler
from torpor.control.scheduler.schedules import Schedules
from torpor.control.service.access import Access
from torpor.control.service.artifacts import Artifacts
from torpor.control.service.deleting import Deleting
from torpor.control.service.deploying import Deploying
from torpor.control.service.executing import Executing
from torpor.control.service.forking import Forking, Wanted
from torpor.control.service.hooks import Hooks
from torpor.control.service.queueing import Queueing
from torpor.control.service.waiting import Answer, Waiting
from torpor.control.service.webhooks import Webhooks
from torpor.control.storage import transfer
from torpor.control.storage.backup import back_up
from torpor.control.storage.storage import Storage
from torpor.core.agentfile import AgentSource
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.errors import Conflict, HostError, Invalid, NotFound, TorporError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.core.limits import LIMITS, ServerLimits
from torpor.core.paging import Page
from torpor.core.prices import Prices
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import FINAL, UNFINISHED, RunState
from torpor.core.webhooks import check_url
from torpor.logstore.protocol import Store
from torpor.logstore.sqlite import SqliteStore
from torpor.machines.host import Machines
from torpor.policy.inputs import check_input
from torpor.query.ask import Asking, Question
from torpor.snapshot.store import SnapshotStore
from torpor.worker.beside import Beside
from torpor.worker.cancelling import CANCELLED
from torpor.worker.commands import Commands
from torpor.worker.metrics import Metrics, Moment
from torpor.worker.runfiles import RunFiles
from torpor.worker.sealing import Keys, switched_on
from torpor.worker.values import Values

log = logging.getLogger(__name__)


class Service:
    def __init__(
        self,
        home: Home,
        store: Store,
        clock: Clock = SYSTEM_CLOCK,
        limits: ServerLimits = LIMITS,
    ) -> None:
        self._clock, self._limits = clock, limits
        self._home, self._store = home, store
        self._blobs = SnapshotStore(
            LocalBlobs(home.blobs), lambda image: home.images / image / "root.erofs"
        )
        self._keys = Keys(home, store, on=switched_on())
        self._values = Values(self._blobs.blobs, home.run, store, self._keys)
        self.files = RunFiles(self._blobs.blobs, store, self._keys, clock, limits)
        self._metrics = Metrics()
        self._storage = Storage(store, self._blobs, self._keys, self._metrics, clock, limits)
        self.deleting = Deleting(home, store, self._storage, clock, limits)
        self._forking = Forking(store, self._keys, clock)
        self.queueing = Queueing(store, clock)
        self.schedules = Schedules(store, clock)
        self._waiting = Waiting(store, self._keys, self._answered_perhaps, clock)
        self._webhooks = Webhooks(store, self._keys, self._waiting, clock=clock, limits=limits)
        self.hooks = Hooks(store, self._keys, self._waiting, self._made, clock)
        self._tending: list[asyncio.Task[None]] = []
        self._started_at = self._clock.now()
        commands = Commands()
        self._engines = Engines(
            Shared(
                home=home,
                store=store,
                blobs=self._blobs,
                keys=self._keys,
                values=self._values,
                files=self.files,
                metrics=self._metrics,
                commands=commands,
                on_end=self._storage.run_ended,
                clock=clock,
                limits=limits,
            )
        )
        self.executing = Executing(store, self._engines, commands, clock)
        self._asking = Asking(home.database)
        self.access = Access(store, clock)
        self.artifacts = Artifacts(store, self._values)
        self._deploying = Deploying(store, self._engines, clock)

    @classmethod
    async def open(cls, home: Home) -> Service:
        """Open the log. Where runs are unfinished, their engines are made ready for them now."""
        home.create()
        service = cls(home, await asyncio.to_thread(SqliteStore.open, home.database))
        engine = service._engines.choice.engine
        await service._store.write(lambda c: deployments.set_default_engine(c, engine))
        needed = await service._store.read(lambda c: runs.engines_of(c, UNFINISHED))
        if any(home.images.iterdir()):
            needed.add(engine)
        for engine in needed:
            service._engines.ready_soon(engine)
        service._tend(service._storage.tend())
        service._tend(service.deleting.tend())
        service._tend(service._webhooks.tend())
        if telemetry.wanted():
            service._tend(
                telemetry.Telemetry(service._store, telemetry.Otlp(), service._clock).tend()
            )
        return service

    async def hand_over(self, tell: Callable[[str], None]) -> None:
        """Leave all runs to the next server as they are now; `tell` hears what becomes of each."""
        self._engines.leaving = True
        self.executing.leave()
        if self._scheduler is not None:
            await self._scheduler.hand_over(tell)

    def _tend(self, what: Coroutine[Any, Any, None]) -> None:
        self._tending.append(asyncio.create_task(what))

    async def stop(self) -> None:
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        await self._webhooks.stop()
        await self.executing.stop()
        await self._engines.stop()
        await stop_processes(self._home)
        await asyncio.to_thread(self._store.close)

    # Engines.

    @property
    def _scheduler(self) -> Scheduler | None:
        return self._engines.scheduler

    @property
    def machines(self) -> Machines:
        """This host's machines; there from the first deployment of an agent to them on."""
        return self._engines.all_machines[0]

    async def health(self) -> dict[str, Any]:
        machines = self._engines.all_machines
        return {
            "version": torpor.__version__,
            "pid": os.getpid(),
            "engine": self._engines.choice.engine,
            "engine_why": self._engines.choice.why,
            "accel": machines[0].engine.accel if machines else None,
            "home": str(self._home.root),
            "model": self._engines.model.upstream if self._engines.model else None,
            "public_url": self._waiting.base,
            "started_at": self._started_at,
        }

    async def metrics(self) -> Collector:
        """All there is to measure, as it is now."""
        log = await self._store.read(totals)
        scheduler, machines = self._scheduler, 0
        pager: dict[str, Any] = {}
        if scheduler is not None:
            machines = sum(driver.live is not None for driver in scheduler.drivers.values())
        hosts = self._engines.all_machines
        pooled = sum(each.waiting for each in hosts)
        if hosts:
            with contextlib.suppress(TorporError):  # it is just being started again
                pager = await hosts[0].pager.stats()
        queues = await self.queueing.moments()
        moment = Moment(log, self._store.appended, machines, pooled, pager, queues)
        return self._metrics.at(moment, await self.prices())

    async def totals(self) -> dict[str, Any]:
        """How much of everything there is."""
        return asdict(await self._store.read(totals))

    async def prices(self) -> Prices:
        """What models cost, as it is told here, for what is shown beside other things."""
        return await asyncio.to_thread(Prices.load_whole, self._home.prices)

    async def query(self, question: Question) -> dict[str, Any]:
        """Rows of the views of docs/sql.md. Raises Invalid, TookTooLong, Exhausted, HostError."""
        return (await self._asking.ask(question, Prices.load(self._home.prices))).to_json()

    async def saved_queries(self) -> list[dict[str, Any]]:
        return [each.to_json() for each in await self._store.read(saved.saved_queries)]

    async def save_query(self, name: str, sql: str) -> dict[str, Any]:
        write = self._store.write(lambda c: saved.save_query(c, name, sql, self._clock.now()))
        return (await write).to_json()

    async def delete_query(self, name: str) -> None:
        await self._store.write(lambda c: saved.delete_query(c, name))

    # Agents.

    async def deploy(
        self,
        source: AgentSource,
        progress: Callable[[str, str, float | None], None],
        engine: str | None = None,
    ) -> dict[str, Any]:
        """See `control.service.deploying.Deploying.deploy`."""
        return await self._deploying.deploy(source, progress, engine)

    async def agents(self) -> list[dict[str, Any]]:
        return await self._deploying.agents()

    async def agent(
        self, ref: str | None, version: str | None, engine: str | None
    ) -> dict[str, Any]:
        """What a run would be started of, as it described itself; be it of another engine."""
        anyhow = engine is None
        chosen = await self._store.read(
            lambda c: _chosen(c, version, ref, engine, any_engine=anyhow)
        )
        return chosen.row.to_json() | {"agent": chosen.agent}

    async def retire(self, ref: str) -> dict[str, Any]:
        return await self._deploying.retire(ref)

    # Runs.

    async def start(
        self,
        version: str | None,
        agent: str | None,
        input: dict[str, Any],
        id_key: str | None,
        start: Start = AT_ONCE,
        *,
        engine: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Of this version of an agent; or of the current one for `engine`, by the agent's name.
        `files`: path → digest of what was uploaded."""
        chosen = await self._store.read(lambda c: _chosen(c, version, agent, engine))
        await asyncio.to_thread(check_input, chosen.agent, input)
        await self.files.check(chosen.row, files or {})
        row = await self._store.write(
            lambda c: runs.create_run(
                c,
                version=chosen.row.version,
                agent=chosen.agent["name"],
                input=input,
                id_key=id_key,
                start=start,
                files=files,
                now=self._clock.now(),
            )
        )
        return self._made(row)

    async def fork(self, ref: str, wanted: Wanted) -> dict[str, Any]:
        return self._made(await self._forking.fork(ref, wanted))

    async def upgrade(self, ref: str, version: str | None) -> dict[str, Any]:
        now = self._clock.now()
        write = self._store.write(lambda c: upgrade_run(c, ref, version, check_input, now))
        return self._made(await write)

    async def retry(self, ref: str, version: str | None) -> dict[str, Any]:
        return self._made(await self._forking.retry(ref, version))

    async def reload(self, ref: str, version: str, *, fresh: bool) -> dict[str, Any]:
        """All about the run that takes this one's place, of `version`."""
        row = await self._forking.reload(ref, version, fresh=fresh)
        self._made(row)
        self._storage.run_ended()
        return await self.run(row.id)

    def _made(self, row: RunRow) -> dict[str, Any]:
        """There is a new run: it is claimed soon."""
        self._engines.ready_soon(row.engine)
        return row.to_json(self._clock.now())

    async def runs(
        self,
        states: list[str] | None,
        limit: int,
        before: str | None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[dict[str, Any]]:
        wanted = None if states is None else [RunState(state) for state in states]

        now = self._clock.now()

        def read(c: Connection) -> list[dict[str, Any]]:
            oldest = None if before is None else runs.get_run(c, before).id
            rows = runs.list_runs(c, wanted, limit, oldest, agent=agent, text=text)
            why = self._reasons(c, rows, now)
            return [row.to_json(now) | {"queued_because": why.get(row.id)} for row in rows]

        return await self._store.read(read)

    def _reasons(self, c: Connection, rows: list[RunRow], now: float) -> dict[RunId, str]:
        """Why those that want a machine have none."""
        if self._scheduler is not None:
            return self._scheduler.reasons(c, rows, now)
        return reasons(c, rows, {}, (), now)

    async def run(self, ref: str) -> dict[str, Any]:
        now = self._clock.now()

        def read(c: Connection) -> dict[str, Any]:
            row = runs.get_run(c, ref)
            taken = snapshots.list_snapshots(c, row.id)
            unended = entries.in_doubt(c, row.id)
            said = spoken(c, row.id)
            # What the newest epochs were at is under way, or frozen in the middle.
            since = row.epoch + 1 if row.state in FINAL else runs.unbroken_since(c, row.id)
            at_work = range(since, row.epoch + 1)
            return row.to_json(now) | {
                "queued_because": self._reasons(c, [row], now).get(row.id),
                "waits": waits.list_waits(c, row.id),
                "in_doubt": [each for each in unended if each["epoch"] not in at_work],
                "snapshots_count": len(taken),
                "bytes": sum(snapshot.bytes for snapshot in taken),
                "template_bytes": agents.get_agent(c, row.version).template_bytes,
                "cycles": entries.count_entries(c, row.id, "run.resumed"),
                "files": [each.to_json() for each in files_of(c, row.id)],
                "output": Beside(self._home.output).shares(c, row.id),
                "forked": forks.forked(c, row),
                "models": [each._asdict() for each in calls.used(c, row.id)],
                "conversation": None if said is None else said.to_json(),
                "family": [member.to_json(now) for member in forks.family(c, row)],
                "children": [child.to_json(now) for child in runs.children(c, row.id)],
            }

        shown = await self._store.read(read)
        driver = self._scheduler.drivers.get(RunId(shown["id"])) if self._scheduler else None
        if driver is not None:  # a call of an epoch before may be under way still
            calling = driver.calls.ops
            shown["in_doubt"] = [each for each in shown["in_doubt"] if each["op"] not in calling]
        prices = await self.prices()
        for each in shown["models"]:
            took = (each["input_tokens"], each["cached_tokens"], each["output_tokens"])
            each["cost_usd"] = prices.cost(each["model"], *took)
        shown["waits"] = await self._waiting.shown(shown["waits"])
        # One that is just being killed, its run recorded as suspended, is nobody's any more.
        running = shown["state"] == RunState.RUNNING.value
        return shown | {"machine": await self._machine(RunId(shown["id"])) if running else None}

    async def _machine(self, run: RunId) -> dict[str, Any] | None:
        driver = self._scheduler.drivers.get(run) if self._scheduler else None
        if driver is None or driver.ended:
            return None
        live, served = driver.live, None
        doing = driver.held_up or driver.doing
        shown = {"pid": live.pid if live else None, "epoch": driver.epoch, "state": doing}
        with contextlib.suppress(TorporError):  # the machine, or the pager, ends just now
            served = await live.served() if live else None
        return shown | {"pager": served}

    async def entries(self, ref: str, after: int, limit: int, kinds: list[str] | None) -> Page:
        return await self._store.read(
            lambda c: entries.read_page(c, runs.get_run(c, ref).id, after, kinds, limit)
        )

    async def begin(
        self, ref: str, kinds: list[str] | None, tail: int | None, since: float | None
    ) -> int:
        """The place in the run's log after which that begins."""
        return await self._store.read(
            lambda c: reading.begin(c, runs.get_run(c, ref).id, kinds=kinds, tail=tail, since=since)
        )

    async def changed(self, run_id: str) -> None:
        with self._store.subscribe(RunId(run_id)) as subscription:
            await subscription.wait()

    async def cancel(self, ref: str) -> dict[str, Any]:
        """A run without a machine ends at once, unwoken. One with a machine may clean up first."""
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
                        if self._scheduler is not None and run in self._scheduler.drivers:
                            self._scheduler.drivers[run].cancel()
                        await subscription.wait()
                        row = await self._store.read(lambda c: runs.get_run(c, run))
                        if row.state is RunState.SUSPENDED:
                            row = await self._store.write(cancel)
            except TimeoutError as error:
                raise HostError(
                    f"{run} has not ended {self._limits.cancel_wait_s:g} s after it was cancelled",
                    hint="The cancellation stands; look again later.",
                ) from error
        self._storage.run_ended()
        return row.to_json(self._clock.now())

    async def snapshots(self, ref: str) -> list[dict[str, Any]]:
        rows = await self._store.read(
            lambda c: snapshots.list_snapshots(c, runs.get_run(c, ref).id, reclaimed=True)
        )
        return [row.to_json() for row in rows]

    async def verify(self, ref: str) -> dict[str, Any]:
        return await self._storage.verify(ref)

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> dict[str, Any]:
        """Keep a snapshot of the run whatever its agent says, or no longer."""

        def write(c: Connection) -> snapshots.SnapshotRow:
            run, row = runs.get_run(c, ref), snapshots.get_snapshot(c, snapshot)
            if row.run != run.id:
                raise NotFound(f"{row.id} is not a snapshot of {run.id}")
            return snapshots.set_pinned(c, row.id, pinned)

        return (await self._store.write(write)).to_json()

    async def gc(self, dry_run: bool) -> dict[str, Any]:
        return await self._storage.collect(dry_run=dry_run)

    async def backup(self, directory: str, with_key: bool) -> dict[str, Any]:
        """Copy all that there is to a new directory on this host. Raises Conflict, Invalid,
        HostError, Damaged."""
        async with self._storage.undisturbed():
            return await asyncio.to_thread(
                back_up,
                self._home,
                self._blobs,
                self._store.copy_to,
                Path(directory),
                with_key=with_key,
                now=self._clock.now(),
            )

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        """What an operation of the run gave, see `worker.values.Values.result`."""
        run = await self._store.read(lambda c: runs.get_run(c, ref))
        return await self._values.result(run.id, OpId(op))

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        """What the run's agent printed from `offset` on; reading the iterator blocks."""
        run = await self._store.read(lambda c: runs.get_run(c, ref))
        return Beside(self._home.output).whole(self._store, run.id, stream, offset)

    # Runs as files.

    async def export(self, ref: str, snapshot: str | None) -> Iterator[bytes]:
        """The run as a file; reading the iterator blocks. Raises Conflict, NotFound, Damaged."""
        spool = await asyncio.to_thread(tempfile.TemporaryFile, dir=self._home.run)
        try:
            told = await self._store.read(
                lambda c: transfer.read_told(c, ref, snapshot, cast(BinaryIO, spool))
            )
            key = await self._keys.find(told.run)
            opening = await transfer.keys_of(told, self._values, self._keys)
            return await asyncio.to_thread(
                transfer.export, self._home, self._blobs, told, key, opening, self._clock.now()
            )
        except BaseException:
            spool.close()
            raise

    async def import_run(self, chunks: AsyncIterator[bytes]) -> dict[str, Any]:
        """Take in what `export` gave elsewhere. Raises Conflict, Invalid, Damaged, HostError."""
        taken = transfer.Import(self._home, self._blobs, self._clock)
        try:
            await asyncio.to_thread(taken.begin, transfer.arriving(chunks))
            await self._store.read(lambda c: refuse_known(c, taken.run))
            if taken.needs is not None:
                (await self._engines.machines(taken.needs.engine)).fit.require_image(taken.needs)
            await asyncio.to_thread(partial(taken.store, seal_files=self._keys.on))
            run, key = RunId(taken.run["id"]), taken.key
            wrapped = None if key is None else await self._keys.wrapped(run, key)
            given = [await self.files.row_of(*each) for each in taken.files]
            row = await self._store.write(lambda c: taken.record(c, wrapped, given))
        finally:
            taken.close()
        return self._made(row)

    # Waits.

    async def waits(
        self,
        run: str | None,
        all: bool,
        limit: int | None = None,
        after: str | None = None,
        tag: str | None = None,
        kinds: list[str] | None = None,
        approve: bool | None = None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[dict[str, Any]]:
        narrowed = (tag, kinds, approve, agent, text)
        return await self._waiting.waits(run, all, limit, after, *narrowed)

    async def wait(self, ref: str) -> dict[str, Any]:
        return await self._waiting.wait(ref)

    async def complete(
        self, ref: str, data: Any, approved: bool | None, note: str | None, by: str | None
    ) -> dict[str, Any]:
        return await self._waiting.complete(ref, Answer(data, approved, note, by))

    async def webhook_secret(self, url: str) -> dict[str, Any]:
        """What is sent to `url` is signed with it."""
        return {"url": url, "secret": await self._webhooks.secret(check_url(url, "url"))}

    def publish(self, base: str) -> None:
        """This host is reached from outside at `base`: waits have public URLs."""
        self._waiting.publish(base)

    async def linked(self, token: str) -> dict[str, Any]:
        return await self._waiting.linked(token)

    async def answer_linked(
        self, token: str, data: Any, approved: bool | None, note: str | None
    ) -> dict[str, Any]:
        return await self._waiting.answer_linked(token, Answer(data, approved, note, "its link"))

    async def send(
        self, ref: str, name: str, data: Any, by: str | None, event: str | None
    ) -> dict[str, Any]:
        return await self._waiting.send(ref, name, data, by=by, event=event)

    def _answered_perhaps(self) -> None:
        if self._scheduler is not None:
            self._scheduler.answered_perhaps()


def _chosen(
    c: Connection,
    version: str | None,
    agent: str | None,
    engine: str | None,
    *,
    any_engine: bool = False,
) -> Chosen:
    if version is not None:
        known = agents.get_agent(c, version)
        if engine not in (None, known.engine):
            raise Conflict(f"{version} is for the engine {known.engine}, not for {engine}")
        return Chosen(known, known.offered(agent))
    if agent is None:
        raise Invalid("name an agent or a version")
    return deployments.choose_current(c, agent, Preference(engine, any_engine=any_engine))
