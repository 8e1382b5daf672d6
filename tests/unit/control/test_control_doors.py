"""Every value through every door of a run, and through a crash: what comes out is what went in."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from tests.jsonvalues import ODD, VALUES, deep

from torpor.contextlog import events, transfer, waits
from torpor.core.prices import Prices
from torpor.query.ask import Asking, Question
from torpor.testing.fakes.plain import Plain

pytestmark = pytest.mark.anyio

ECHO = """
import torpor

@torpor.step
def gives(value): return value

@torpor.agent
def same(x): return x

@torpor.agent
def echo(x):
    torpor.emit(x)
    torpor.log("said", value=x)
    found = {"input": x, "step": gives(x), "child": torpor.spawn(same, x=x).result()}
    found["answer"] = torpor.waitpoint("w", data=x).result().data
    found["event"] = torpor.event("e").result().data
    torpor.waitpoint("end").result()
    return found

@torpor.agent
def deep():
    answer = torpor.waitpoint("w").result().data
    torpor.waitpoint("end").result()
    return answer
"""


def some() -> list[Any]:
    found: list[Any] = list(ODD)

    @settings(max_examples=100)
    @given(VALUES)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


async def wait_for(plain: Plain, run: Any, op: str) -> waits.WaitRow:
    with plain.store.subscribe(run) as subscription:
        while True:
            for wait in await plain.store.read(lambda c: waits.list_waits(c, run)):
                if wait.op == op:
                    return wait
            await subscription.wait()


async def answer(plain: Plain, wait: waits.WaitRow, data: Any) -> None:
    now = time.time()
    await plain.store.write(
        lambda c: waits.complete_wait(c, wait.id, value={"data": data}, now=now)
    )


async def test_all_values_come_out_as_they_went_in(plain: Plain) -> None:
    x = some()
    wanted = json.dumps(x)
    run = await plain.run(await plain.deploy(ECHO), "echo", x=x)
    wait = await wait_for(plain, run, "wait:w#1")
    assert json.dumps(wait.data) == wanted
    await answer(plain, wait, x)
    await plain.store.write(
        lambda c: events.send_event(c, run, "e", x, now=time.time(), by=None, event=None)
    )
    last = await wait_for(plain, run, "wait:end#1")
    await plain.kill(run)  # and all of it is replayed
    await answer(plain, last, None)
    result = await plain.result(run)
    assert list(result) == ["input", "step", "child", "answer", "event"]
    assert {json.dumps(each) for each in result.values()} == {wanted}
    (emitted,) = await plain.entries(run, "note.emit")
    (logged,) = await plain.entries(run, "note.log")
    assert json.dumps(emitted.data["value"]) == json.dumps(logged.data["data"]["value"]) == wanted
    exported = await plain.store.read(lambda c: json.dumps(list(transfer.stream_entries(c, run))))
    assert exported.count(wanted) > 8
    sql = "SELECT result -> '$.input', input -> '$.x' FROM runs WHERE id = ?"
    asked = Question(sql, [run])
    found = (await Asking(plain.home.database).ask(asked, Prices.load(plain.home.prices))).to_json()
    assert {json.dumps(json.loads(each)) for each in found["rows"][0]} == {wanted}


async def test_the_deepest_answer_is_replayed(plain: Plain) -> None:
    deepest = deep()
    run = await plain.run(await plain.deploy(ECHO), "deep")
    await answer(plain, await wait_for(plain, run, "wait:w#1"), deepest)
    last = await wait_for(plain, run, "wait:end#1")
    await plain.kill(run)
    await answer(plain, last, None)
    assert await plain.result(run) == deepest


@pytest.mark.parametrize("value", ODD, ids=ascii)
async def test_a_bare_value_is_a_result(plain: Plain, value: Any) -> None:
    run = await plain.run(await plain.deploy(ECHO), "same", x=value)
    assert json.dumps(await plain.result(run)) == json.dumps(value)
