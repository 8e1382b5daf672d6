"""Budgets and limits, whole: runs with drivers, the real broker as a process, and a model's API
that counts; what people are shown is what the broker has counted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from tests.unit.egress.upstreams import Received, Upstream, upstream

from torpor.contextlog import runs, schema, spent
from torpor.core.access import Grant
from torpor.core.amounts import KINDS
from torpor.core.errors import HostError
from torpor.core.home import Home
from torpor.core.ids import OpId, RunId
from torpor.core.prices import Prices
from torpor.egress.client import BrokerClient
from torpor.egress.launch import stop_broker
from torpor.query.ask import Asking, Question
from torpor.testing.fakes.broker import PlayedBroker
from torpor.testing.fakes.world import SPEC, VERSION, World

pytestmark = pytest.mark.anyio

INPUT, OUTPUT = 10, 30_000  # of each answer: more than is reserved for one that is not bounded
PRICE = {"input": 1.0, "output": 10.0}
COST = (INPUT * PRICE["input"] + OUTPUT * PRICE["output"]) / 1e6
ANSWER = json.dumps(
    {
        "object": "response",
        "status": "completed",
        "model": "gpt-4.1",
        "output": [],
        "usage": {"input_tokens": INPUT, "output_tokens": OUTPUT},
    }
).encode()


async def respond(received: Received, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    writer.write(head % len(ANSWER) + ANSWER)


class Process(PlayedBroker):
    """A broker's process; it is started when it is needed."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.client = BrokerClient.of(home)

    async def die(self) -> None:
        """So that nobody takes it for alive."""
        connection = await self.client.connect()
        os.kill((await self.client.health())["pid"], signal.SIGKILL)
        with contextlib.suppress(HostError):
            await connection.call("health")

    async def close(self) -> None:
        await self.client.close()
        await stop_broker(self._home)


class Budgeted:
    def __init__(self, world: World, server: Upstream, arrived: asyncio.Event) -> None:
        self.world, self.server = world, server
        self.arrived = arrived  # a request that is not answered

    async def budget(self, **budget: Any) -> None:
        """The agent's, from now on."""
        rules = {"rules": {"budget": budget}}
        agents = schema.agents
        values = {"spec": SPEC | rules, "budget": budget}
        change = update(agents).where(agents.c.version == VERSION).values(**values)
        await self.world.store.write(lambda c: c.execute(change))

    def limits(self, text: str) -> None:
        self.world.home.egress.write_text(f"[limits]\n{text}\n")

    async def start(self, *threads: Sequence[Sequence[Any]], key: str | None = None) -> RunId:
        by = None if key is None else Grant("a key", frozenset(), key=key)
        row = await self.world.store.write(
            lambda c: runs.create_run(
                c,
                version=VERSION,
                agent=None,
                input={"threads": threads},
                cause=by,
                now=self.world.clock.now(),
            )
        )
        return row.id

    async def answers(self, run: RunId) -> dict[str, tuple[int, str]]:
        """Of each call of a run that ends well."""
        found = (await self.world.ended(run)).result
        calls = {op: each for op, each in found.items() if op.startswith("model:")}
        return {op: (each["status"], each["body"]) for op, each in calls.items()}

    async def used(self, run: RunId) -> Mapping[str, float]:
        """As the broker is told; as people are shown it, by the API and by SQL, it is the same."""
        world = self.world
        known, shown = await world.store.read(
            lambda c: (spent.known(c, run, world.clock.now()), spent.spent(c, run))
        )
        prices = Prices.load(world.home.prices)
        amounts = (shown.cost(prices), shown.tokens, shown.requests)
        seen = dict(zip(KINDS, (*amounts, shown.bytes_out, shown.bytes_in), strict=True))
        of_run = known.get("run", dict.fromkeys(KINDS, 0.0))
        assert seen == pytest.approx(of_run)
        sql = Question("SELECT kind, used FROM budgets WHERE run = ?", [run])
        rows = (await Asking(world.home.database).ask(sql, prices)).rows
        assert dict(rows) == pytest.approx(of_run)
        return of_run


@pytest.fixture
async def budgeted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anyio_backend: str
) -> AsyncIterator[Budgeted]:
    arrived = asyncio.Event()

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if "?silent" in received.line:
            arrived.set()
            await asyncio.Event().wait()
        await respond(received, writer)

    async with upstream(answer) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.port}/v1")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        world = World(Home(tmp_path / "home"))
        (world.home.root / "prices.toml").write_text(
            f'[models."gpt-4.1"]\ninput = {PRICE["input"]}\noutput = {PRICE["output"]}\n'
        )
        await world.broker.close()
        world.broker = Process(world.home)
        async with world:
            yield Budgeted(world, server, arrived)


def denied(answer: tuple[int, str], words: str) -> bool:
    assert answer[0] == 402 and words in answer[1] and "over_budget" in answer[1], answer
    return True


async def test_what_passes_a_budget_is_denied_in_words_and_all_count_the_same(
    budgeted: Budgeted,
) -> None:
    await budgeted.budget(requests=2)
    run = await budgeted.start([["model", "a"], ["model", "b"], ["model", "c"]])
    answers = await budgeted.answers(run)
    assert [answers[OpId(f"model:{name}#1")][0] for name in "abc"] == [200, 200, 402]
    assert denied(answers["model:c#1"], "the run may use 2 requests ([tool.torpor.budget])")
    assert len(budgeted.server.received) == 2
    used = await budgeted.used(run)
    assert used["requests"] == 2 and used["bytes_out"] == 4
    # Longer than was reserved for it: settled as it was.
    assert used["tokens"] == 2 * (INPUT + OUTPUT)
    assert used["cost"] == pytest.approx(2 * COST)


async def test_the_log_says_what_was_used_where_a_broker_and_its_file_are_lost(
    budgeted: Budgeted,
) -> None:
    await budgeted.budget(requests=1)
    world = budgeted.world
    run = await budgeted.start([["model", "a"], ["wait", "go"], ["model", "b"]])
    await world.asleep(run)
    await world.broker.die()
    world.home.egress_usage.unlink()
    await world.answer("wait:go#1")
    assert denied((await budgeted.answers(run))["model:b#1"], "has used or reserved 1")
    assert len(budgeted.server.received) == 1


async def test_a_broker_that_dies_under_a_run_is_followed_by_one_that_knows(
    budgeted: Budgeted,
) -> None:
    await budgeted.budget(requests=1)
    world = budgeted.world
    run = await budgeted.start([["model", "a"], ["work", "w"], ["model", "b"]])
    await world.begun(run, "step:w#1")
    await world.broker.die()
    world.home.egress_usage.unlink()
    world.let_end("step:w#1")
    assert denied((await budgeted.answers(run))["model:b#1"], "the run may use 1 request")
    assert len(budgeted.server.received) == 1


async def test_a_day_is_of_all_runs_of_an_agent_and_a_keys_of_what_it_started(
    budgeted: Budgeted,
) -> None:
    budgeted.limits("requests_per_day = 3\nrequests_per_key = 1")
    first = await budgeted.start([["model", "a"], ["model", "b"]], key="k1")
    found = await budgeted.answers(first)
    assert denied(found["model:b#1"], "its API key today may use 1 request")
    second = await budgeted.start([["model", "a"]], key="k1")
    assert (await budgeted.answers(second))["model:a#1"][0] == 402
    for key in ("k2", "k3"):
        run = await budgeted.start([["model", "a"]], key=key)
        assert (await budgeted.answers(run))["model:a#1"][0] == 200
    # Whatever becomes of the broker.
    await budgeted.world.broker.die()
    budgeted.world.home.egress_usage.unlink()
    last = await budgeted.start([["model", "a"]], key="k4")
    assert denied((await budgeted.answers(last))["model:a#1"], "the agent today may use 3")
    assert len(budgeted.server.received) == 3
    assert (await budgeted.used(last))["requests"] == 0


async def test_a_hundred_calls_at_once_pass_no_limit_together(budgeted: Budgeted) -> None:
    budgeted.limits("requests_per_run = 10")
    run = await budgeted.start(*([["model", f"m{n}"]] for n in range(100)))
    answers = await budgeted.answers(run)
    assert sorted(status for status, _ in answers.values()) == [200] * 10 + [402] * 90
    assert len(budgeted.server.received) == 10
    assert (await budgeted.used(run))["requests"] == 10


async def test_what_is_lost_with_its_broker_counts_as_what_it_may_have_taken(
    budgeted: Budgeted,
) -> None:
    run = await budgeted.start([["model", "silent"]])
    await budgeted.arrived.wait()
    await budgeted.world.broker.die()
    assert (await budgeted.answers(run))["model:silent#1"][0] == 503
    used = await budgeted.used(run)
    # Its request names no model and no bound: what the host sets for what it does not know.
    assert used["cost"] == 0.5 and used["tokens"] == len("{}") + 16_384


async def test_where_a_budget_asks_a_person_is_to_be_asked(budgeted: Budgeted) -> None:
    await budgeted.budget(requests=0, ask=True)
    run = await budgeted.start([["model", "a"]])
    value = (await budgeted.world.ended(run)).result["model:a#1"]
    assert value["status"] == 403 and value["ask"] is True
    assert not budgeted.server.received and (await budgeted.used(run))["requests"] == 0
