"""Reloads over HTTP, with the real service behind it."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from torpor.api.app import create_app
from torpor.contextlog import agents
from torpor.contextlog.runs import create_run, get_run
from torpor.control.service.service import Service
from torpor.core.agentfile import AgentSource
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, RunId
from torpor.logstore.sqlite import SqliteStore
from torpor.worker.loading import tar_of

OLD, NEW = AgentVersion("a" * 32), AgentVersion("b" * 32)


def test_a_run_is_reloaded(tmp_path: Path, idle: None) -> None:
    home = Home(tmp_path).create()

    async def main() -> None:
        store = SqliteStore.open(home.database)
        source = AgentSource("f.py", {"f.py": b"x = 1\n"})
        spec: dict[str, Any] = {"dependencies": [], "memory_mib": 512, "disk_mib": 64, "keep": ""}
        known: dict[str, Any] = {"name": "f", "entry": "f.py", "source": tar_of(source)}
        known["spec"] = spec | {"on_divergence": "stop", "image": "process"}
        known["engine"] = "process"
        known["agents"] = [{"name": "a", "doc": None, "params": [], "open": False}]
        for version in (OLD, NEW):
            new = agents.NewAgent(version=version, **known)
            await store.write(partial(agents.put_agent, new=new, now=1.0))
        run = (
            await store.write(lambda c: create_run(c, version=OLD, agent="a", input={}, now=2.0))
        ).id
        transport = httpx.ASGITransport(create_app(Service(home, store)))
        async with httpx.AsyncClient(transport=transport, base_url="http://torpor/v1") as http:
            refused = await http.post(f"/runs/{run}/reload", json={"version": "no such"})
            assert refused.status_code == 404
            assert (await http.post(f"/runs/{run}/reload", json={})).status_code == 422
            made = await http.post(f"/runs/{run}/reload", json={"version": NEW})
            assert made.status_code == 201, made.text
            assert made.json()["version"] == NEW
            assert made.json()["forked"]["how"] == "reload"
            again = await http.post(f"/runs/{run}/reload", json={"version": NEW, "fresh": True})
            assert again.json()["forked"]["origin"] == made.json()["id"]
        row = await store.read(lambda c: get_run(c, run))
        assert (row.state.value, row.successor) == ("cancelled", RunId(made.json()["id"]))
        store.close()

    asyncio.run(main())
