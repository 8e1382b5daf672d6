"""What agents may reach, and what became of their requests."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import agents, deployments, runs
from torpor.contextlog.agents import AgentRow
from torpor.contextlog.deployments import Deployment
from torpor.core.egress import Request, judge, parse_request
from torpor.core.errors import HostError
from torpor.core.presets import hinted
from torpor.logstore.protocol import Store
from torpor.query.ask import Question
from torpor.query.outgoing import egress
from torpor.service.egress import Exchange, ExchangeFilter, Judged, Reach
from torpor.service.queries import Queries
from torpor.service.shapes import reply
from torpor.worker.way import policy_of

Explain = Callable[[Mapping[str, Any], Request], Awaitable[Mapping[str, Any]]]
"""`torpor.egress.client.BrokerClient.explain`."""


class Egress:
    """See `torpor.service.egress.Egress`."""

    def __init__(self, store: Store, queries: Queries, explain: Explain) -> None:
        self._store, self._queries, self._explain = store, queries, explain

    async def reach(self, ref: str, *, exact: bool = False) -> Reach:
        deployment, row = await self._find(ref, exact=exact)
        return reply(
            Reach,
            name=deployment.name,
            version=row.version,
            engine=row.engine,
            origin=deployment.origin,
            deployed_at=deployment.deployed_at,
            entries=row.spec.get("egress", []),
            rules=[asdict(rule) for rule in row.egress],
            budget=row.rules.given.get("budget", {}),
        )

    async def test(self, ref: str, method: str, url: str) -> Judged:
        request = parse_request(method, url)
        _, row = await self._find(ref)
        with contextlib.suppress(HostError):  # no broker, or none that starts
            return judged(await self._explain(policy_of(row), request), whole=True)
        return judged(asdict(hinted(judge(row.egress, request), request)), whole=False)

    async def _find(self, ref: str, *, exact: bool = False) -> tuple[Deployment, AgentRow]:
        def read(c: Connection) -> tuple[Deployment, AgentRow]:
            found = deployments.find_current(c, ref, exact=exact)
            return found, agents.get_agent(c, found.version)

        return await self._store.read(read)

    async def log(self, wanted: ExchangeFilter) -> Sequence[Exchange]:
        values: dict[str, Any] = {"limit": wanted.limit}
        where = ["verdict = 'deny'"] if wanted.denied else []
        if (ref := wanted.run) is not None:
            values["run"] = (await self._store.read(lambda c: runs.get_run(c, ref))).id
            where.append("run = :run")
        if wanted.since is not None:
            values["since"] = wanted.since
            where.append("coalesce(ended_at, at) >= :since")
        columns = ", ".join(column.name for column in egress.columns)
        sql = (
            f"SELECT {columns} FROM egress {'WHERE ' * bool(where)}{' AND '.join(where)} "
            "ORDER BY coalesce(ended_at, at) DESC, run, seq DESC LIMIT :limit"
        )
        found = await self._queries.ask(Question(sql, values, rows_max=wanted.limit))
        rows = (dict(zip(found["columns"], row, strict=True)) for row in reversed(found["rows"]))
        return [reply(Exchange, row) for row in rows]


def judged(verdict: Mapping[str, Any], *, whole: bool) -> Judged:
    """The fields of a `torpor.core.egress.Verdict`; `whole` if the host's were looked at."""
    named = {key: value for key, value in verdict.items() if key != "decision"}
    return reply(Judged, named, verdict=verdict["decision"], whole=whole)
