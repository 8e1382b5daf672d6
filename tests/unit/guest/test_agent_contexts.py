"""Steps that get a framework's objects, replayed: by its threads, its tasks, or by none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

# A framework as there are many: it gives a tool a context with ids of its own, times, a client and
# the deps, and calls tools in threads, plain ones in its loop, or coroutines.
FRAMEWORK = """
import asyncio, threading, time, uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

@dataclass
class Context:
    deps: object
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    at: float = field(default_factory=time.time)
    lock: object = field(default_factory=threading.Lock)

def call(how, tool, deps, several):
    if how == "plain":
        return [tool(Context(deps), each) for each in several]
    if how == "threads":
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda each: tool(Context(deps), each), several))
    async def main():
        if how == "loop":
            async def one(each):
                await asyncio.sleep(0)
                return tool(Context(deps), each)
        elif how == "to threads":
            async def one(each): return await asyncio.to_thread(tool, Context(deps), each)
        else:
            async def one(each): return await tool(Context(deps), each)
        return await asyncio.gather(*map(one, several))
    return asyncio.run(main())
"""

AGENT = """
import os, sys, torpor
from dataclasses import dataclass
from torpor.sdk import holding
import framework

holding.QUIET_SHORT_S = 0.1

@dataclass
class Deps:
    api_key: str

def pay(context, amount):
    print("PAY", amount)
    return f"paid {amount}"

async def apay(context, amount):
    return pay(context, amount)

@torpor.agent
def main(how, amounts, quiet_s=60.0):
    holding.QUIET_S = quiet_s
    tool = torpor.step(name="pay")(apay if how == "tasks" else pay)
    return framework.call(how, tool, Deps("sk-SECRET-123"), amounts)
"""
HOWS = ("plain", "threads", "loop", "to threads", "tasks")


def ran(driver: Driver, journal: Any, how: str, amounts: list[int], **more: Any) -> dict[str, Any]:
    loaded = driver.load(AGENT, framework=FRAMEWORK)
    assert loaded["t"] == "loaded", loaded
    driver.start(journal=journal, how=how, amounts=amounts, **more)
    return driver.hear("done", "failed", "exited")


@pytest.mark.parametrize("how", HOWS)
def test_a_recorded_step_is_not_run_again_whatever_its_context_holds(
    drive: Callable[[], Driver], how: str
) -> None:
    first = drive()
    paid = [f"paid {n}" for n in (5, 5, 6, 7)]
    assert ran(first, [], how, [5, 5, 6, 7])["value"] == paid
    journal = first.journal()
    # Killed after each of its operations.
    for upto in range(1, len(journal) + 1):
        second = drive()
        assert ran(second, journal[:upto], how, [5, 5, 6, 7])["value"] == paid
        assert len(second.said("begin")) == 4 - upto
        assert second.out.decode().count("PAY") == 4 - upto
        second.close()


@pytest.mark.parametrize("how", HOWS)
def test_one_that_has_other_arguments_than_recorded_is_reported_before_its_body(
    drive: Callable[[], Driver], how: str
) -> None:
    first = drive()
    ran(first, [], how, [5, 6])
    second = drive()
    # Else it is held as long as others may need, and longer than this test waits.
    (one,) = (each for each in first.journal() if each["value"] == "paid 5")
    failed = ran(second, [one], how, [7, 6], quiet_s=0.5)
    assert failed["type"] == "Divergence"
    assert f"recorded: {one['op']} " in failed["message"]
    # No body for what is not recorded: only the question whether it may go on.
    assert [each["kind"] for each in second.said("begin")] == ["verdict"]
    assert b"PAY" not in second.out


@pytest.mark.parametrize("how", HOWS)
def test_the_log_has_of_objects_only_their_types(drive: Callable[[], Driver], how: str) -> None:
    driver = drive()
    ran(driver, [], how, [5])
    (begin,) = driver.said("begin")
    assert begin["data"] == {"args": [{"$type": "framework.Context"}, 5], "kwargs": {}}
    assert "SECRET" not in json.dumps(driver.log)


ORDERS = """
import threading, torpor
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from torpor.sdk import holding

holding.QUIET_SHORT_S = 20.0

@dataclass
class Order:
    number: int

@torpor.step
def ship(order): return order.number

@torpor.step(key="order.number")
def keyed(order): return order.number

@torpor.agent
def main(orders, step):
    do = {"ship": ship, "keyed": keyed}[step]
    with ThreadPoolExecutor(len(orders)) as pool:
        return list(pool.map(do, map(Order, orders)))
"""


@pytest.mark.parametrize("step", ["ship", "keyed"])
def test_results_of_equal_operations_are_not_swapped(
    drive: Callable[[], Driver], step: str
) -> None:
    first = drive()
    assert first.value(ORDERS, orders=[1, 2, 3, 4], step=step) == [1, 2, 3, 4]
    second = drive()
    # The log has some of them, in another order than they come in.
    journal = list(reversed(first.journal()))[:3]
    assert second.value(ORDERS, journal, orders=[1, 2, 3, 4], step=step) == [1, 2, 3, 4]
    assert len(second.said("begin")) == 1
    digests = {each["digest"] for each in first.said("begin")}
    assert len(digests) == (1 if step == "ship" else 4)
    assert all(("hint" in each) is (step == "ship") for each in first.said("begin"))


EARLY = """
import asyncio, threading, torpor

ran = []

def work(n):
    ran.append(n)
    return n

async def awork(n):
    return work(n)

@torpor.agent
def main(how):
    # The one that is new comes first, this time; that which is recorded waits for a sign of it.
    came = threading.Event()
    step = torpor.step(name="work")(awork if how == "tasks" else work)
    if how == "threads":
        def quick():
            came.set()
            step(2)
        def slow():
            came.wait()
            step(1)
        threads = [threading.Thread(target=each) for each in (slow, quick)]
        for each in threads: each.start()
        for each in threads: each.join()
    else:
        async def both():
            came = asyncio.Event()
            async def quick():
                came.set()
                await step(2)
            async def slow():
                await came.wait()
                await step(1)
            await asyncio.gather(quick(), slow())
        asyncio.run(both())
    return ran
"""


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_what_comes_early_is_held_until_the_record_is_used(
    drive: Callable[[], Driver], how: str
) -> None:
    first = drive()
    assert sorted(first.value(EARLY, how=how)) == [1, 2]
    journal = [each for each in first.journal() if each["value"] == 1]
    second = drive()
    assert second.value(EARLY, journal, how=how) == [2]


def test_the_place_of_an_operation_is_the_users(drive: Callable[[], Driver]) -> None:
    source = """
        import asyncio, torpor
        from site_packages_like import hooks

        @torpor.step
        def pay(): return 1

        @torpor.agent
        def main():
            hooks.call(pay)
            hooks.in_thread(pay)
            asyncio.run(hooks.in_loop(pay))
            torpor.step(lambda: 2)()
            return list(map(pay.__call__, []))
    """
    library = """
        import threading
        def call(f): return f()
        def in_thread(f):
            thread = threading.Thread(target=call, args=(f,))
            thread.start()
            thread.join()
        async def in_loop(f): return call(f)
    """
    driver = drive()
    # A library among the agent's own files, as where these are a virtual environment's, too.
    name = ".venv/lib/site-packages/site_packages_like"
    source = source.replace(
        "from site_packages_like",
        f"import sys; sys.path.append(__file__[:-8] + {name[:-19]!r})\n"
        "        from site_packages_like",
    )
    loaded = driver.load(source, **{f"{name}/__init__": "", f"{name}/hooks": library})
    assert loaded["t"] == "loaded", loaded
    driver.start()
    driver.hear("done")
    places = [each["at"] for each in driver.said("begin")]
    assert places == ["agent.py:11", "agent.py:6", "agent.py:13", "agent.py:14"]
