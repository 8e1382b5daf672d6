"""The SDK where there is no run: it can be imported and typed, and operations say what they
need."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC
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
        lambda: torpor.approve("?"),
        lambda: torpor.waitpoint(),
        lambda: torpor.sleep(1),
        lambda: torpor.sleep_until(0),
        lambda: torpor.checkpoint(),
        lambda: torpor.event("paid"),
        lambda: torpor.spawn(research, topic="x"),
        lambda: torpor.spawn_many(research, [{"topic": "x"}]),
        lambda: torpor.context.append("user", "x"),
        lambda: torpor.run.id,
        lambda: torpor.run.epoch,
    ],
)
def test_operations_outside_a_run_say_so(call: Callable[[], object]) -> None:
    with pytest.raises(torpor.OutsideRun, match=r"torpor run .*torpor\.testing\.run"):
        call()
    assert repr(torpor.run) == "<torpor.run: no run>"


def test_a_step_outside_a_run_is_its_function() -> None:
    assert search("x") == ["x"]
    assert asyncio.run(fetch("x")) == b"x"
    calls: list[str] = []

    @torpor.step(retries=5, backoff="1h", timeout="1h", on_doubt="ask")
    def fails() -> object:
        calls.append(torpor.run.idempotency_key)
        torpor.log("tried", level="warning", times=len(calls))
        torpor.emit(len(calls))
        assert search("within") == ["within"]
        raise KeyError("as it is")

    for _ in range(2):
        with pytest.raises(KeyError, match="as it is") as raised:
            fails()
        assert type(raised.value) is KeyError
    assert len(set(calls)) == 2
    assert torpor.step(lambda: (1, {2}))() == (1, {2})


def test_a_wait_in_a_step_is_refused_outside_a_run_too() -> None:
    with pytest.raises(torpor.OutsideRun, match="inside the step 'approve'"):
        torpor.step(torpor.approve)("?")


def test_what_is_said_outside_a_run_goes_to_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "torpor"):
        torpor.log("plain")
        torpor.log("measured", level="debug", metres=12)
        torpor.emit({"metres": 12})
    assert [(each.name, each.levelname, each.getMessage()) for each in caplog.records] == [
        ("torpor", "INFO", "plain"),
        ("torpor", "DEBUG", "measured {'metres': 12}"),
        ("torpor", "INFO", "emit {'metres': 12}"),
    ]
    with pytest.raises(TypeError, match="is not JSON"):
        torpor.emit(object())
    with pytest.raises(ValueError, match="level="):
        torpor.log("x", level="loud")


def test_time_and_chance_outside_a_run_are_pythons() -> None:
    assert torpor.now().tzinfo is UTC
    assert torpor.random().random() != torpor.random().random()
    assert torpor.uuid4().version == 4


@pytest.mark.parametrize("options", [{"retries": -1}, {"retries": 10**6}, {"timeout": "soon"}])
def test_a_step_with_senseless_options_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"retries|duration"):
        torpor.step(**options)


def another() -> None: ...


def test_two_agents_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="research"):
        torpor.agent(name="research")(another)


def test_every_public_name_is_there() -> None:
    from torpor import sdk

    assert torpor.__all__ == sdk.__all__
    assert set(sdk.__all__) <= set(dir(torpor))
    for name in sdk.__all__:
        assert getattr(torpor, name) is getattr(sdk, name)
        assert (sdk.__dict__[name].__doc__ or "").strip(), f"{name} has no docstring"
    with pytest.raises(AttributeError, match="nothing_like_it"):
        torpor.nothing_like_it  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("code", ["import torpor; torpor.agent", "from torpor import sdk"])
def test_the_sdk_is_reached_in_a_fresh_process(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)
