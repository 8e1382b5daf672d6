"""The server's way down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from torpor.api.stopping import Stop

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_it_is_done_once_and_told_to_all_who_ask() -> None:
    go, began, times = asyncio.Event(), asyncio.Event(), []

    async def hand_over(tell: Callable[[str], None]) -> None:
        times.append(1)
        tell("one")
        began.set()
        await go.wait()
        tell("two")

    stop = Stop(hand_over)
    first: list[str] = []
    second: list[str] = []
    asking = [asyncio.create_task(stop.request(first.append))]
    await began.wait()
    asking.append(asyncio.create_task(stop.request(second.append)))
    leaves = asyncio.create_task(stop.request())
    await asyncio.sleep(0)
    leaves.cancel()  # who leaves does not end it
    assert not stop.closing.is_set()
    go.set()
    await asyncio.gather(*asking)
    assert first == second == ["one", "two"]
    assert times == [1]
    assert stop.closing.is_set()


async def test_what_fails_does_not_keep_the_server(caplog: pytest.LogCaptureFixture) -> None:
    async def hand_over(tell: Callable[[str], None]) -> None:
        raise RuntimeError("ours to mend")

    stop = Stop(hand_over)
    await stop.request()
    assert stop.closing.is_set()
    assert "ours to mend" in caplog.text
