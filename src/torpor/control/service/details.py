"""Everything about one run, gathered: what `torpor show` and a run's page show."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, calls, entries, forks, runs, snapshots, spent, waits
from torpor.contextlog.conversation import spoken
from torpor.contextlog.files import files_of
from torpor.contextlog.runs import RunRow
from torpor.contextlog.spent import Spent
from torpor.contextlog.waits import WaitRow
from torpor.control.engines import Engines
from torpor.control.scheduler.claims import Needs, reasons
from torpor.control.service.waits import Waits
from torpor.core.amounts import KINDS
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.egress import Budget
from torpor.core.errors import TorporError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.core.prices import Prices
from torpor.core.states import FINAL, RunState
from torpor.logstore.protocol import Store
from torpor.policy.admission import Capacity, Room
from torpor.service.runs import RunDetail
from torpor.service.shapes import reply
from torpor.wire.messages import EXCHANGES
from torpor.worker.beside import Beside
from torpor.worker.way import prices_of


@dataclass(frozen=True)
class _Read:
    """One reading of the log."""

    row: RunRow
    fields: dict[str, Any]
    waits: Sequence[WaitRow]
    in_doubt: list[dict[str, Any]]
    models: list[dict[str, Any]]
    spent: Spent
    budget: Budget


class Details:
    def __init__(
        self,
        home: Home,
        store: Store,
        engines: Engines,
        waits: Waits,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._clock = clock
        self._home, self._store, self._engines, self._waits = home, store, engines, waits

    async def get(self, ref: str) -> RunDetail:
        """Raises NotFound."""
        now = self._clock.now()
        read = await self._store.read(lambda c: self._read(c, ref, now))
        scheduler = self._engines.scheduler
        driver = scheduler.drivers.get(read.row.id) if scheduler else None
        calling = driver.calls.ops if driver else ()  # a call of an earlier epoch may go on
        prices = await asyncio.to_thread(prices_of, self._home)
        # A machine that is just being killed, its run recorded as suspended, is nobody's any more.
        running = read.row.state is RunState.RUNNING
        return reply(
            RunDetail,
            read.fields,
            waits=await self._waits.shown(read.waits),
            in_doubt=[each for each in read.in_doubt if each["op"] not in calling],
            models=[_priced(each, prices) for each in read.models],
            budget=_shares(read.spent, read.budget, prices),
            machine=await self._machine(read.row.id) if running else None,
        )

    def why_queued(self, c: Connection, rows: Sequence[RunRow], now: float) -> dict[RunId, str]:
        """Why those of the runs that want a machine have none."""
        if (scheduler := self._engines.scheduler) is not None:
            return scheduler.reasons(c, [*rows], now)
        return reasons(c, [*rows], Room(Capacity(0, 0)), Needs({}), (), now)

    def asleep_under(self, c: Connection, rows: Sequence[RunRow]) -> dict[RunId, list[OpId]]:
        """The calls under which those of the runs that sleep do so."""
        asleep = [r.id for r in rows if r.state is RunState.SUSPENDED and not r.ready]
        return snapshots.under_calls(c, EXCHANGES, among=asleep) if asleep else {}

    def _read(self, c: Connection, ref: str, now: float) -> _Read:
        row = runs.get_run(c, ref)
        agent = agents.get_agent(c, row.version)
        taken = snapshots.list_snapshots(c, row.id)
        conversation = spoken(c, row.id)
        # What the newest epochs were at is under way, or frozen in the middle.
        since = row.epoch + 1 if row.state in FINAL else runs.unbroken_since(c, row.id)
        at_work = range(since, row.epoch + 1)
        fields = row.to_json(now) | {
            "queued_because": self.why_queued(c, [row], now).get(row.id),
            "asleep_under": self.asleep_under(c, [row]).get(row.id, []),
            "snapshots_count": len(taken),
            "bytes": sum(snapshot.bytes for snapshot in taken),
            "template_bytes": agent.template_bytes,
            "cycles": entries.count_entries(c, row.id, "run.resumed"),
            "files": [each.to_json() for each in files_of(c, row.id)],
            "output": Beside(self._home.output).shares(c, row.id),
            "forked": forks.forked(c, row),
            "conversation": conversation and conversation.to_json(),
            "family": [each.to_json(now) for each in forks.family(c, row)],
            "children": [each.to_json(now) for each in runs.children(c, row.id)],
        }
        return _Read(
            row,
            fields,
            waits.list_waits(c, row.id),
            [each for each in entries.in_doubt(c, row.id) if each["epoch"] not in at_work],
            [each._asdict() for each in calls.used(c, row.id)],
            spent.spent(c, row.id),
            agent.rules.budget,
        )

    async def _machine(self, run: RunId) -> dict[str, Any] | None:
        scheduler = self._engines.scheduler
        driver = scheduler.drivers.get(run) if scheduler else None
        if driver is None or driver.ended:
            return None
        live, served = driver.live, None
        doing = driver.held_up or driver.doing
        with contextlib.suppress(TorporError):  # the machine, or the pager, ends just now
            served = await live.served() if live else None
        pid = live.pid if live else None
        return {"pid": pid, "epoch": driver.epoch, "state": doing, "pager": served}


def _priced(used: dict[str, Any], prices: Prices) -> dict[str, Any]:
    took = (used["input_tokens"], used["cached_tokens"], used["output_tokens"])
    return used | {"cost_usd": prices.cost(used["model"], *took)}


def _shares(spent: Spent, budget: Budget, prices: Prices) -> list[dict[str, Any]]:
    used = {
        "cost": spent.cost(prices),
        "tokens": spent.tokens,
        "requests": spent.requests,
        "bytes_out": spent.bytes_out,
        "bytes_in": spent.bytes_in,
    }
    return [
        {"kind": kind, "used": used[kind], "allowed": getattr(budget, kind), "asks": budget.ask}
        for kind in KINDS
    ]
