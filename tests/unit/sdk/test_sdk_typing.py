"""What type checkers see of `torpor`. mypy reads this file with all others (`make check`): what it
asserts is checked there, and what must be refused is marked, since an ignore that is not needed is
an error. Run, it is only imported."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any, assert_type

import torpor
from torpor import step, waitpoint


@step
def plain(x: int, *, y: str = "") -> list[str]:
    return [y] * x


@torpor.step(retries=3, backoff="2s", key="x")
def configured(x: int) -> str:
    return str(x)


@step
async def later(x: int) -> bytes:
    return bytes(x)


class Shop:
    @step
    def order(self, sku: str) -> int:
        return len(sku)

    @torpor.step(timeout=5)
    async def pay(self, pence: int) -> bool:
        return pence > 0

    @staticmethod
    @step
    def price(sku: str) -> float:
        return 1.0


@torpor.agent
def agent(topic: str, depth: int = 1) -> dict[str, int]:
    return {topic: depth}


@torpor.agent(name="another")
async def asynchronous(topic: str) -> str:
    return topic


def steps_keep_their_signatures(shop: Shop) -> None:
    assert_type(plain(1, y="a"), list[str])
    assert_type(configured(1), str)
    assert_type(shop.order("tea"), int)
    assert_type(Shop.price("tea"), float)
    assert_type(step(len)("abc"), int)
    plain("1")  # type: ignore[arg-type]
    configured(y=1)  # type: ignore[call-arg]
    shop.order(1)  # type: ignore[arg-type]
    torpor.step(retry=3)  # type: ignore[call-overload]


def agents_stay_functions() -> None:
    assert_type(agent("tea"), dict[str, int])
    begun: Callable[[str], Coroutine[Any, Any, str]] = asynchronous
    assert_type(begun, Callable[[str], Coroutine[Any, Any, str]])
    called: Callable[[str], dict[str, int]] = agent
    called("tea")


def waits() -> None:
    assert_type(torpor.approve("?").approved, bool)
    assert_type(waitpoint("w").result(), torpor.WaitResult)
    assert_type(torpor.event("paid", timeout="1d").result().timed_out, bool)
    assert_type(torpor.sleep("1h"), Awaitable[None])
    assert_type(torpor.spawn(agent, topic="tea").done, bool)
    assert_type(torpor.wait_any(waitpoint("a"), torpor.spawn(agent)), torpor.WaitResult)
    assert_type(torpor.now(), datetime)
    assert_type(torpor.run.id, str)
    torpor.no_such_name  # type: ignore[attr-defined]  # noqa: B018


async def in_coroutines(shop: Shop) -> None:
    assert_type(await later(1), bytes)
    assert_type(await shop.pay(1), bool)
    assert_type(await torpor.approve("?"), torpor.Verdict)
    assert_type(await waitpoint("w"), torpor.WaitResult)
    assert_type(await torpor.sleep(1), None)
    assert_type((await asyncio.gather(later(1), later(2)))[0], bytes)
    for each in await torpor.wait_all(waitpoint("a"), waitpoint("b")):
        assert_type(each, torpor.WaitResult)


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(torpor.__file__).with_name("py.typed").exists()
