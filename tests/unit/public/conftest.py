"""The real service over a real log, and a run in it that waits: no engine is needed for that."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from torpor.api.app import create_app
from torpor.api.public import public_app
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.runs import claim, create_run, transition
from torpor.contextlog.waits import NewWait, WaitRow, complete_wait, create_wait, get_wait
from torpor.control.service.service import Service
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore

BASE = "https://agents.example.com"
VERSION = AgentVersion("a" * 32)
BROWSER = {"accept": "text/html,application/xhtml+xml"}


class Outside:
    """What somebody with a link sees, and the log behind it."""

    def __init__(self, home: Home) -> None:
        self.store = SqliteStore.open(home.create().database)
        self.service = Service(home, self.store)
        self.service.publish(BASE)
        self.run: RunId
        self._asked = 0

    async def start(self) -> None:
        def write(c: Any) -> tuple[RunId, Epoch]:
            now = time.time()
            spec = {"image": "process"}
            put_agent(
                c,
                NewAgent(
                    engine="process", version=VERSION, name="a", entry="a.py", source=b"", spec=spec
                ),
                now,
            )
            run = create_run(c, version=VERSION, agent="shop", input={}, now=now).id
            return run, claim(c, run, now)

        self.run, self.epoch = await self.store.write(write)

    async def ask(self, **asked: Any) -> WaitRow:
        self._asked += 1
        fields: dict[str, Any] = {"name": "order", "digest": "d", "kind": "wait"} | asked
        op = OpId(f"{fields['kind']}:{fields['name']}#{self._asked}")
        return await self.store.write(
            lambda c: create_wait(c, self.run, self.epoch, NewWait(op=op, **fields), time.time())
        )

    async def end(self, wait: WaitRow, **value: Any) -> None:
        await self.store.write(lambda c: complete_wait(c, wait.id, value=value, now=time.time()))

    async def finish(self) -> None:
        await self.store.write(
            lambda c: transition(c, self.run, None, RunState.COMPLETED, time.time())
        )

    async def state(self, wait: WaitRow) -> WaitRow:
        return await self.store.read(lambda c: get_wait(c, wait.id))

    async def path(self, wait: WaitRow) -> str:
        shown = await self.service.waits.get(wait.id)
        url = shown["url"]
        assert url is not None and url.startswith(BASE + "/w/")
        return url.removeprefix(BASE)

    def http(self, *, all: bool = False) -> httpx.AsyncClient:
        app = create_app(self.service) if all else public_app(self.service)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url=BASE)


Talk = Callable[[Outside, httpx.AsyncClient], Awaitable[None]]


@pytest.fixture
def talk() -> Iterator[Callable[[Talk], None]]:
    """Run a conversation with a server that has just a run that waits."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:

        def talk(about: Talk) -> None:
            async def main() -> None:
                outside = Outside(Home(Path(folder)))
                await outside.start()
                try:
                    async with outside.http() as http:
                        await about(outside, http)
                finally:
                    outside.store.close()

            asyncio.run(main())

        yield talk
