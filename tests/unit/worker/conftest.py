"""The way out of one run, over a real log: a broker and a guest that are played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.worker.played import PlayedBroker, PlayedUpstream

from torpor.blobs.local import LocalBlobs
from torpor.contextlog import entries
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import BEGIN, EntryRow, NewEntry
from torpor.contextlog.runs import claim, create_run
from torpor.core.clock import SYSTEM_CLOCK
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId
from torpor.egress.upstream import Request
from torpor.logstore.sqlite import SqliteStore
from torpor.machines.channel import Channel
from torpor.testing.fakes.broker import Reply
from torpor.wire import streams
from torpor.wire.streams import Frame
from torpor.worker.calls import Calls
from torpor.worker.metrics import Metrics
from torpor.worker.network import Network
from torpor.worker.pen import Pen
from torpor.worker.sealing import SealingKeys
from torpor.worker.serving import Serving
from torpor.worker.tasks import Tasks
from torpor.worker.values import Results, Values
from torpor.worker.way import Way

STUCK_S = 10.0
VERSION = AgentVersion("a" * 32)
CLOCK = SYSTEM_CLOCK


class PlayedGuest(Channel):
    """Keeps the frames that it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []
        self._came = asyncio.Event()

    def pass_on(self, frame: bytes) -> None:
        self.frames.append(streams.decode(frame, streams.TO_GUEST))
        self._came.set()

    async def until(self, kind: int, stream: int = 1) -> Frame:
        """The last frame of this kind on this stream, once there is one."""
        async with asyncio.timeout(STUCK_S):
            while True:
                found = [f for f in self.frames if (f.kind, f.stream) == (kind, stream)]
                if found:
                    return found[-1]
                self._came.clear()
                await self._came.wait()

    async def has(self, body: bytes, stream: int = 1) -> None:
        """Once so much of the answer has come."""
        async with asyncio.timeout(STUCK_S):
            while self.body(stream) != body:
                self._came.clear()
                await self._came.wait()

    def body(self, stream: int = 1) -> bytes:
        """What has come of it, in order and without a gap."""
        body = bytearray()
        for frame in self.frames:
            if (frame.kind, frame.stream) == (streams.DATA, stream):
                assert frame.offset == len(body)
                body += frame.data
        return bytes(body)

    def kinds(self, stream: int = 1) -> list[int]:
        return [frame.kind for frame in self.frames if frame.stream == stream]


class Stand:
    def __init__(self, store: SqliteStore, run: RunId, home: Home) -> None:
        self.store, self.run, self.home = store, run, home
        self.blobs = LocalBlobs(home.root / "blobs")
        self.upstream = PlayedUpstream(self._answer)
        self.broker = PlayedBroker(self.upstream)
        self.guest = PlayedGuest()
        self.trouble: list[BaseException] = []
        self.failed = asyncio.Event()
        self.epoch = Epoch(0)
        self.outcomes: dict[OpId, Any] = {}
        self.delivered = asyncio.Event()
        self.network: Network
        self.calls: Calls
        self.serving: Serving

    async def _answer(self, request: Request) -> Reply:
        return Reply(200, {"content-type": "text/plain"}, b"answer to " + request.body)

    async def next_driver(self) -> None:
        """What the run has under way is taken over by another, with a machine of its own."""
        self.epoch = await self.store.write(lambda c: claim(c, self.run, CLOCK.now()))
        pen = Pen(self.store, self.run, self.epoch)
        broker: Any = self.broker
        way = Way(self.run, broker, self.store, pen, CLOCK, lambda: self.guest)
        self.network = Network(way, Tasks(self._fail))
        keys = SealingKeys(self.home, self.store, on=True)
        values = Values(self.blobs, self.home.run, self.store, keys)
        results = Results(self.run, values, self.store, pen)
        results.key = await keys.of(self.run)
        self.calls = Calls(way, results, Tasks(self._fail), Metrics())
        self.serving = Serving(way, values, Tasks(self._fail))

    async def entries(self, *kinds: str) -> list[EntryRow]:
        await self.store.write(lambda c: None)  # what is being written is written
        return await self.store.read(lambda c: entries.read_entries(c, self.run, 0, kinds))

    async def logged(self, kind: str, count: int = 1) -> list[EntryRow]:
        """Once there are so many."""
        with self.store.subscribe(self.run) as subscription:
            async with asyncio.timeout(STUCK_S):
                while len(found := await self.entries(kind)) < count:
                    await subscription.wait()
        return found

    def _fail(self, error: BaseException) -> None:
        self.trouble.append(error)
        self.failed.set()

    async def begin(self, op: str, stream: int | None = 1, **data: Any) -> None:
        """As `torpor.worker.receiving` does what a begin message means."""
        kind = op.partition(":")[0]
        request = {"method": "POST", "path": "/v1/x", "headers": {}, "body": "{}", **data}
        begun = {"kind": kind, "name": "x", "digest": "0" * 32, "data": request}
        entry = NewEntry(BEGIN, OpId(op), begun)
        await self.store.write(
            lambda c: entries.append(c, self.run, self.epoch, [entry], CLOCK.now())
        )
        self.call(op, request, stream)

    def call(self, op: str, request: Any = None, stream: int | None = None) -> None:
        self.calls.make(OpId(op), request, self._deliver, stream)

    def _deliver(self, op: OpId, outcome: Any) -> None:
        self.outcomes[op] = outcome
        self.delivered.set()

    async def outcome(self, op: str) -> Any:
        async with asyncio.timeout(STUCK_S):
            while op not in self.outcomes:
                assert not self.trouble, self.trouble
                self.delivered.clear()
                await self.delivered.wait()
        return self.outcomes[OpId(op)]

    async def close(self) -> None:
        await self.network.leave(None)
        await self.calls.leave(ended=False)
        await self.serving.leave()
        assert not self.trouble, self.trouble


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def stand(tmp_path: Path, anyio_backend: str) -> AsyncIterator[Stand]:
    store = SqliteStore.open(tmp_path / "torpor.db")
    agent = NewAgent(
        engine="qemu",
        version=VERSION,
        name="agent",
        entry="agent.py",
        source=b"tar",
        spec={"memory_mib": 512},
    )
    await store.write(lambda c: put_agent(c, agent, 1.0))
    made = await store.write(
        lambda c: create_run(c, version=VERSION, agent=None, input={}, now=10.0)
    )
    stand = Stand(store, made.id, Home(tmp_path / "home").create())
    await stand.next_driver()
    yield stand
    await stand.close()
    store.close()
