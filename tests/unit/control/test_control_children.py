"""Parents and children, as real processes that replay their logs."""

from __future__ import annotations

import pytest

from torpor.contextlog import runs
from torpor.contextlog.runs import RunRow
from torpor.core.ids import RunId
from torpor.core.states import RunState
from torpor.policy.admission import Capacity
from torpor.testing.fakes.plain import HASTY, Plain

pytestmark = pytest.mark.anyio

AGENTS = """
import torpor

@torpor.agent
def square(n):
    if n < 0:
        raise ValueError("too small")
    return n * n

@torpor.agent
def total(count):
    return sum(torpor.spawn_many(square, [{"n": n} for n in range(count)]).results())

@torpor.agent
async def either(n):
    import asyncio
    one, other = torpor.spawn(square, n=n), torpor.spawn("agent:square", {"n": -n})
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    again = await torpor.wait_any(other)
    return [first, type(second).__name__, second.type, again.status, again.data["message"]]

@torpor.agent
def mails(key, priority=None):
    return key

@torpor.agent
def sends():
    said = []
    for wrong in ({"key": "x"}, {"queue": " "}, {"delay": "soon"}, {"priority": 1001}):
        try:
            torpor.spawn(mails, **wrong)
        except ValueError as error:
            said.append(str(error))
    one = torpor.spawn(mails, {"key": "x"}, key="y", queue="mail")
    others = torpor.spawn_many(square, [{"n": 2}, {"n": 3}], priority=5, delay="5ms")
    late = torpor.spawn(square, n=4, delay="1h", expires="1h")
    torpor.spawn(asks).result()
    return [said, one.result(), others.results()]

@torpor.agent
def asleep():
    torpor.sleep("1h")

@torpor.agent
def asker():
    child = torpor.spawn(asks)
    torpor.log("it has begun")
    return [child.result(), torpor.spawn(square, n=2).result()]

@torpor.agent
def asks():
    return torpor.waitpoint("tell").result().data

@torpor.agent
def gathers():
    return torpor.spawn_many(asks, [{}, {}, {}]).results()

@torpor.agent
def boss():
    torpor.spawn_many(asleep, [{}, {}]).results()
"""


async def children(plain: Plain, run: RunId, count: int) -> list[RunRow]:
    found: list[RunRow] = []
    with plain.store.subscribe(run) as subscription:
        while len(found) < count:
            found = await plain.store.read(lambda c: runs.children(c, run))
            if len(found) < count:
                await subscription.wait()
    return found


async def test_a_parent_gets_what_its_children_return(plain: Plain) -> None:
    version = await plain.deploy(AGENTS)
    assert await plain.result(await plain.run(version, "total", count=4)) == 14
    got = await plain.result(await plain.run(version, "either", n=3))
    assert got == [9, "ChildFailed", "ValueError", "failed", "too small"]


async def test_children_are_started_as_runs_are(plain: Plain) -> None:
    version = await plain.deploy(AGENTS)
    run = await plain.run(version, "sends")
    one, *others, late, asks = await children(plain, run, 5)
    assert (one.queue, one.queue_key, one.input) == ("mail", "y", {"key": "x"})
    assert [each.priority for each in others] == [5, 5]
    assert late.not_before == late.created_at + 3600.0
    assert late.expires_at == late.created_at + 7200.0
    await plain.kill(run)
    await plain.answer(asks.id)
    said, *results = await plain.result(run)
    assert results == ["x", [4, 9]]
    assert [each.removeprefix("torpor.spawn: ").split(" ")[0] for each in said] == [
        "key",
        "queue:",
        "'soon'",
        "a",
    ]
    assert len(await children(plain, run, 5)) == 5


async def test_a_parent_that_was_killed_has_the_same_children(plain: Plain) -> None:
    version = await plain.deploy(AGENTS)
    run = await plain.run(version, "asker")
    (child,) = await children(plain, run, 1)
    await plain.until(run, lambda row: row.last_seq >= 5)  # it waits
    await plain.kill(run)
    await plain.answer(child.id, 7)
    assert await plain.result(run) == [7, 4]
    both = await children(plain, run, 2)
    assert both[0].id == child.id
    assert await plain.entries(run, "run.recovered")


async def test_a_child_has_room_beside_the_parent_that_waits_for_it(plain: Plain) -> None:
    version = await plain.deploy(AGENTS)
    plain.scheduler.capacity = Capacity(mib=1, runs=16)
    run = await plain.run(version, "asker")
    (child,) = await children(plain, run, 1)
    await plain.answer(child.id, 7)
    assert await plain.result(run) == [7, 4]
    assert not await plain.entries(run, "run.resumed")  # it has never made room


async def test_a_parent_sleeps_until_all_of_a_batch_have_ended(
    plain: Plain, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain.carriers.terms = HASTY
    version = await plain.deploy(AGENTS)
    run = await plain.run(version, "gathers")
    found = await children(plain, run, 3)
    await plain.suspended(run)
    for n, child in enumerate(found):
        await plain.answer(child.id, n)
        await plain.result(child.id)
    assert await plain.result(run) == [0, 1, 2]
    assert len(await plain.entries(run, "run.resumed")) == 1


async def test_a_cancellation_reaches_the_children(plain: Plain) -> None:
    version = await plain.deploy(AGENTS)
    run = await plain.run(version, "boss")
    found = await children(plain, run, 2)
    for child in found:
        await plain.open_wait(child.id)
    await plain.store.write(lambda c: runs.request_cancel(c, run, 1.0))
    assert (await plain.ended(run)).state is RunState.CANCELLED
    for child in found:
        assert (await plain.ended(child.id)).state is RunState.CANCELLED
