"""Queues, schedules and upgrades over HTTP, with the real service behind it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from torpor.api.app import create_app
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import create_run
from torpor.control.service.service import Service
from torpor.core.home import Home
from torpor.core.ids import AgentVersion
from torpor.logstore.sqlite import SqliteStore

OLD, NEW = AgentVersion("a" * 32), AgentVersion("b" * 32)
AGENT: dict[str, Any] = {"name": "a", "doc": None, "params": [], "open": False}
ADDED = {"agent": "f:a", "cron": "30 8 * * mon-fri", "zone": "Europe/Berlin"}

pytestmark = pytest.mark.usefixtures("idle")


def ask(home: Home, talk: Callable[[httpx.AsyncClient, SqliteStore], Awaitable[None]]) -> None:
    async def main() -> None:
        home.create()
        store = SqliteStore.open(home.database)
        known: dict[str, Any] = {"name": "f", "entry": "f.py", "source": b"", "agents": [AGENT]}
        rules = {"rules": {"upgradable": True}}
        await store.write(
            lambda c: put_agent(c, NewAgent(engine="qemu", version=OLD, spec={}, **known), 1.0)
        )
        await store.write(
            lambda c: put_agent(c, NewAgent(engine="qemu", version=NEW, spec=rules, **known), 2.0)
        )
        transport = httpx.ASGITransport(create_app(Service(home, store)))
        async with httpx.AsyncClient(transport=transport, base_url="http://torpor/v1") as http:
            await talk(http, store)
        store.close()

    asyncio.run(main())


def test_a_queue_is_limited_paused_and_listed(home: Home) -> None:
    async def talk(http: httpx.AsyncClient, store: SqliteStore) -> None:
        await store.write(lambda c: create_run(c, version=OLD, agent="a", input={}, now=3.0))
        (queue,) = (await http.get("/queues")).json()
        assert (queue["name"], queue["queued"], queue["running"]) == ("f:a", 1, 0)
        changed = await http.patch("/queues/f:a", json={"concurrency": 2, "rate": "10/1m"})
        assert changed.status_code == 200, changed.text
        paused = (await http.patch("/queues/f:a", json={"paused": True, "rate": None})).json()
        assert (paused["concurrency"], paused["rate"], paused["paused"]) == (2, None, True)
        for wrong in ({"rate": "often"}, {"concurrency": 0}, {"colour": 1}):
            refused = await http.patch("/queues/f:a", json=wrong)
            assert refused.status_code == 422, refused.text

    ask(home, talk)


def test_a_schedule_is_added_paused_and_removed(home: Home) -> None:
    async def talk(http: httpx.AsyncClient, store: SqliteStore) -> None:
        added = await http.put("/schedules/daily", json=ADDED)
        assert added.status_code == 200, added.text
        assert added.json()["next_at"] is not None
        assert (await http.put("/schedules/daily", json=ADDED)).json() == added.json()
        other = ADDED | {"cron": "0 9 * * *"}
        assert (await http.put("/schedules/daily", json=other)).status_code == 409
        changed = await http.put("/schedules/daily", json=other | {"replace": True})
        assert changed.json()["cron"] == "0 9 * * *"
        assert (await http.patch("/schedules/daily", json={"paused": True})).json()["paused"]
        assert [each["name"] for each in (await http.get("/schedules")).json()] == ["daily"]
        assert (await http.delete("/schedules/daily")).status_code == 200
        assert (await http.delete("/schedules/daily")).status_code == 404

    ask(home, talk)


def test_a_wrong_schedule_is_refused_in_words(home: Home) -> None:
    async def talk(http: httpx.AsyncClient, store: SqliteStore) -> None:
        for change, status, words in (
            ({"cron": "99 * * * *"}, 400, "not a cron expression"),
            ({"zone": "Mars/Base"}, 400, "no time zone"),
            ({"agent": "nobody"}, 404, "nobody"),
            ({"input": {"x": 1}}, 400, "unknown: x"),
            ({"overlap": "sometimes"}, 422, "overlap"),
        ):
            refused = await http.put("/schedules/s", json=ADDED | change)
            assert words in refused.text, refused.text
            assert refused.status_code in (status, 422), refused.text
        assert (await http.get("/schedules")).json() == []

    ask(home, talk)


def test_a_run_is_moved(home: Home) -> None:
    async def talk(http: httpx.AsyncClient, store: SqliteStore) -> None:
        made = await store.write(lambda c: create_run(c, version=OLD, agent="a", input={}, now=3.0))
        moved = await http.post(f"/runs/{made.id}/upgrade", json={})
        assert moved.status_code == 200 and moved.json()["version"] == NEW, moved.text
        again = await http.post(f"/runs/{made.id}/upgrade", json={})
        assert again.status_code == 409

    ask(home, talk)
