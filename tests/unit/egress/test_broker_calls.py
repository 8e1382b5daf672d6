"""A call is made once, whoever dies: the broker's process, its socket, an upstream that counts."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.unit.egress.brokers import Collected, brokered, collect, model_call, request

from torpor.core.egress import MODEL_HOST
from torpor.core.errors import Missing
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.egress.admission import DenyAll
from torpor.egress.answer import CutOff, Listener, Seen
from torpor.egress.calls import Call, Calls
from torpor.egress.client import BrokerClient
from torpor.egress.connection import Connection, Lost
from torpor.egress.launch import ensure_broker, stop_broker
from torpor.egress.upstream import OpenAIUpstream, Request

pytestmark = pytest.mark.anyio

RUN, OP = RunId("run_1"), OpId("model:/v1/responses@0a1b2c3d#1")
ASKED = request(80, "/v1/responses?a=1", "POST", {"x-mine": "1"}, host=MODEL_HOST)
STUCK_S = 30.0


class Held:
    """An API that answers when it is let, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[str] = []  # the idempotency keys that came
        self.gone = threading.Event()  # who asked has given up
        self._asked, self._go = threading.Semaphore(0), threading.Semaphore(0)
        held = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                held.keys.append(self.headers["idempotency-key"])
                number = len(held.keys)
                held._asked.release()
                held._go.acquire()
                body = b"answer %d" % number
                try:
                    self.connection.settimeout(0.0)
                    if self.connection.recv(1) == b"":
                        held.gone.set()
                        return
                except BlockingIOError:
                    self.connection.settimeout(None)
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.send_header("torpor-call", "given up")  # as if it were ours to say
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}
        )
        self._thread.start()

    async def asked(self) -> None:
        assert await asyncio.to_thread(self._asked.acquire, timeout=STUCK_S)

    def let(self) -> None:
        """One more answer."""
        self._go.release()

    def close(self) -> None:
        self._go.release(100)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    held = Held()
    yield held
    held.close()


@pytest.fixture
async def home(
    tmp_path: Path, held: Held, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Home]:
    monkeypatch.setenv("OPENAI_BASE_URL", held.url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    home = Home(tmp_path)
    yield home
    await stop_broker(home)


async def opened(home: Home) -> BrokerClient:
    client = BrokerClient.of(home)
    await client.connect()
    return client


async def make(
    client: BrokerClient, run: RunId = RUN, op: OpId = OP, request: Mapping[str, Any] = ASKED
) -> Collected:
    stream, verdict = await client.call(run, op, "model", request, b"{}")
    return await collect(stream, Collected(verdict=verdict.fields))


async def adopt(client: BrokerClient) -> Collected | None:
    found = await client.attach(RUN, OP)
    return None if found is None else await collect(found[0])


async def begun(home: Home, held: Held) -> tuple[BrokerClient, asyncio.Task[Collected]]:
    """A server that has asked, and whose call is on its way."""
    client = await opened(home)
    task = asyncio.create_task(make(client))
    await held.asked()
    return client, task


async def dies(model: BrokerClient, task: asyncio.Task[Collected]) -> None:
    """That server does."""
    task.cancel()
    await asyncio.wait([task])
    await model.close()


async def test_who_asks_again_joins(home: Home, held: Held) -> None:
    await dies(*await begun(home, held))
    after = await opened(home)
    adopted = asyncio.create_task(adopt(after))
    made = asyncio.create_task(make(after))
    held.let()
    (found, joined) = await asyncio.gather(adopted, made)
    assert found is not None and found.body == joined.body == b"answer 1"
    assert joined.verdict["joined"]
    await after.close()
    assert held.keys == [f"{RUN}:{OP}"]


async def test_an_answer_that_nobody_took_is_kept_until_it_is_acknowledged(
    home: Home, held: Held
) -> None:
    await dies(*await begun(home, held))
    held.let()
    after = await opened(home)
    for _ in range(3):
        found = await adopt(after)
        assert found is not None and found.body == b"answer 1"
    await after.acknowledge(RUN, OP)
    assert await adopt(after) is None
    await after.close()
    assert len(held.keys) == 1


async def test_a_run_that_has_ended_gives_its_calls_up(home: Home, held: Held) -> None:
    model, task = await begun(home, held)
    await model.forget(RunId("run_2"))
    assert not task.done()
    await model.forget(RUN)
    assert (await task).reset["code"] == "given_up"
    assert await adopt(model) is None
    held.let()
    assert await asyncio.to_thread(held.gone.wait, STUCK_S)  # its connection was closed
    await model.close()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_call_that_dies_with_its_broker_is_lost(
    home: Home, held: Held, number: signal.Signals
) -> None:
    model, task = await begun(home, held)
    connection = await ensure_broker(home)
    os.kill(connection.pid, number)
    with pytest.raises(Lost) as lost:
        await task
    assert lost.value.sent
    assert await adopt(model) is None
    again = asyncio.create_task(make(model))  # starts another
    await held.asked()
    held.let()
    held.let()
    assert (await again).body == b"answer 2"
    assert held.keys == [f"{RUN}:{OP}"] * 2
    connection.close()
    await model.close()


async def test_two_operations_and_two_runs_are_calls_of_their_own(home: Home, held: Held) -> None:
    model = await opened(home)
    names = [(RUN, OP), (RUN, OpId(f"{OP}0")), (RunId("run_2"), OP)]
    tasks = [asyncio.create_task(make(model, *name)) for name in names]
    for _ in tasks:
        await held.asked()
        held.let()
    answers = await asyncio.gather(*tasks)
    assert len({answer.body for answer in answers}) == 3
    await model.close()


async def test_a_machine_cannot_name_a_call_of_anothers(home: Home, held: Held) -> None:
    """Whatever it asks for is a call of its own run, which is allowed or refused."""
    _, task = await begun(home, held)
    model = await opened(home)
    for method, path in (
        ("DELETE", f"/calls?run={RUN}"),
        ("GET", f"/calls?run={RUN}&op={OP}"),
        ("GET", "/health"),
        ("POST", "/v1/../calls"),
    ):
        found = await make(model, RunId("run_2"), OP, ASKED | {"method": method, "target": path})
        assert found.status == 403
    held.let()
    assert (await task).body == b"answer 1"
    await model.close()


async def test_a_call_that_could_not_be_connected_is_none(anyio_backend: str) -> None:
    """What never began upstream is no doubt: it is answered so, and may be asked for anew."""
    upstream = OpenAIUpstream("http://127.0.0.1:9/v1", "", retry_delays_s=(0.0,))
    async with brokered(upstream, DenyAll()) as (_, client):
        assert (await model_call(client, path="/v1/responses")).status == 502


class Echo:
    """Answers with the request's body."""

    description = "echo"

    async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
        listener.head(200, [])
        await listener.data(request.body)
        listener.end()

    async def close(self) -> None:
        pass


async def echoed(calls: Calls, n: int) -> None:
    async def send(listener: Listener, seen: Seen) -> None:
        await Echo().answer(Request("POST", "/v1/x", body=bytes(20_000)), listener, seen)

    await calls.begin((RUN, str(n)), {"verdict": "allow"}, None, send).task


async def test_what_is_kept_is_bounded_in_bytes(anyio_backend: str) -> None:
    losses: list[int] = []
    calls = Calls(kept_bytes_max=100_000, on_loss=lambda: losses.append(1))
    identity = calls.id
    for n in range(20):
        await echoed(calls, n)
    assert [n for n in range(20) if calls.get((RUN, str(n))) is not None] == [16, 17, 18, 19]
    assert calls.id != identity and len(losses) == 16
    await calls.close()
    assert calls.bytes == 0


async def test_what_is_kept_is_bounded_in_time(anyio_backend: str) -> None:
    calls = Calls(kept_s_max=0.0)
    await echoed(calls, 1)
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, passed.set)  # after that of the call
    await passed.wait()
    assert calls.get((RUN, "1")) is None
    await calls.close()


async def test_an_answer_without_room_is_cut_off_and_others_are_not(anyio_backend: str) -> None:
    calls = Calls(kept_bytes_max=30_000)
    go = asyncio.Event()

    async def slow(listener: Listener, seen: Seen) -> None:
        listener.head(200, [])
        await listener.data(bytes(15_000))
        await go.wait()

    first = calls.begin((RUN, "1"), {"verdict": "allow"}, None, slow)
    await first.change()
    await echoed(calls, 2)
    second = calls.get((RUN, "2"))
    assert second is not None and isinstance(second.failure, CutOff)
    assert second.failure.code == "no_room"
    go.set()
    await first.task
    assert first.failure is None
    await calls.close()


async def test_attempt_41_a_run_with_large_answers_takes_no_room_of_others(
    anyio_backend: str,
) -> None:
    calls = Calls(kept_bytes_max=100_000)

    async def answer(size: int, listener: Listener, seen: Seen) -> None:
        listener.head(200, [])
        await listener.data(bytes(size))

    def begin(run: str, op: str, size: int) -> Call:
        return calls.begin((run, op), {"verdict": "allow"}, None, partial(answer, size))

    asleep = begin("run_asleep", "1", 10_000)
    await asleep.task
    large = [begin("run_large", str(n), 40_000) for n in range(5)]
    for each in large:
        await each.task
    greedy = begin("run_greedy", "1", 95_000)
    await greedy.task
    assert isinstance(greedy.failure, CutOff) and greedy.failure.code == "no_room"
    assert calls.get(("run_asleep", "1")) is asleep
    await calls.close()
    assert calls.bytes == 0


async def test_an_upstream_that_fails_is_an_answer(anyio_backend: str) -> None:
    class Broken(Echo):
        async def answer(self, request: Request, listener: Listener, seen: Seen) -> None:
            raise ValueError("what is this")

    async with brokered(Broken(), DenyAll()) as (_, client):
        assert (await model_call(client)).status == 500


async def test_an_answer_is_served_from_any_offset_on(anyio_backend: str) -> None:
    body = bytes(range(256)) * 4000  # more than a window
    async with brokered(Echo(), DenyAll()) as (_, client):
        assert (await model_call(client, body=body)).body == body
        for offset in (0, 1, 300_000, len(body)):
            found = await client.attach(RUN, OpId("model:m#1"), offset)
            assert found is not None
            rest = await collect(found[0])
            assert (rest.body, rest.whole) == (body[offset:], True)


async def test_no_broker_is_missing(tmp_path: Path, anyio_backend: str) -> None:
    with pytest.raises(Missing):
        await Connection.open(tmp_path / "none.sock")
