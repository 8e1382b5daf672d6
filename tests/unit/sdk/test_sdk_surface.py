"""The SDK where there is no run: it can be imported and typed, and operations say what they
need."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from typing import Any, assert_type

import pytest

import torpor


@torpor.agent
def research(topic: str, depth: int = 1) -> str:
    return topic * depth


@torpor.agent(name="other")
async def later(topic: str) -> int:
    return len(topic)


@torpor.step(retries=3, backoff="2s", timeout=10)
def search(query: str) -> list[str]:
    return [query]


@torpor.step
async def fetch(url: str) -> bytes:
    return url.encode()


def plain_code() -> None:
    assert_type(search("x"), list[str])
    verdict = torpor.approve("Send?", data={"a": 1}, timeout="7d")
    assert_type(verdict.approved, bool)
    wait = torpor.waitpoint("w")
    assert_type(wait.result(), torpor.WaitResult)
    assert_type(torpor.wait_any(wait).data, Any)
    torpor.sleep("1h")
    torpor.checkpoint()


async def coroutine() -> None:
    assert_type(await fetch("x"), bytes)
    assert_type(await torpor.approve("Send?"), torpor.Verdict)
    assert_type(await torpor.waitpoint("w"), torpor.WaitResult)
    await torpor.sleep(1)
    results = await torpor.wait_all(torpor.waitpoint("a"), torpor.waitpoint("b"))
    assert_type(results[0], torpor.WaitResult)


def test_agents_stay_ordinary_functions() -> None:
    assert research("ab", depth=2) == "abab"
    assert asyncio.run(later("abc")) == 3


@pytest.mark.parametrize(
    "call",
    [
        lambda: search("x"),
        lambda: asyncio.run(fetch("x")),
        lambda: torpor.approve("?"),
        lambda: torpor.waitpoint(),
        lambda: torpor.sleep(1),
        lambda: torpor.sleep_until(0),
        lambda: torpor.checkpoint(),
        lambda: torpor.log("x"),
        lambda: torpor.emit(1),
        lambda: torpor.context.append("user", "x"),
        lambda: torpor.run.id,
        lambda: torpor.run.epoch,
    ],
)
def test_operations_outside_a_run_say_so(call: Callable[[], object]) -> None:
    with pytest.raises(torpor.OutsideRun, match="torpor run"):
        call()
    assert repr(torpor.run) == "<torpor.run: no run>"


@pytest.mark.parametrize("options", [{"retries": -1}, {"retries": 10**6}, {"timeout": "soon"}])
def test_a_step_with_senseless_options_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"retries|duration"):
        torpor.step(**options)


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="research"):
        torpor.agent(name="research")(lambda: None)


def test_every_public_name_is_there() -> None:
    from torpor import sdk

    for name in sdk.__all__:
        assert getattr(torpor, name) is getattr(sdk, name)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        torpor.nothing_like_it  # noqa: B018


@pytest.mark.parametrize("code", ["import torpor; torpor.agent", "from torpor import sdk"])
def test_the_sdk_is_reached_in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
