"""Warm hooks, in a real agent's process under a real supervisor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

import torpor
from torpor.sdk.warming import is_not_yet

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

ASK = """
import json, os, sys, torpor, urllib.request

def ask():
    url = os.environ["OPENAI_BASE_URL"] + "/chat/completions"
    with urllib.request.urlopen(urllib.request.Request(url, b"{}")) as response:
        return response.status
"""

HOOKS = f"""{ASK}
import asyncio, contextvars
did, context = [], contextvars.ContextVar("context", default="as it was")

@torpor.step(retries=9)
def doubled(number):
    return 2 * number

@torpor.warm
def first():
    import colorsys
    print("warming")
    open("written", "w").close()
    context.set("changed")
    torpor.log("said to nobody")
    did.append(doubled(4))
    try:
        torpor.approve("?")
    except torpor.OutsideRun as error:
        did.append(str(error))

@torpor.warm
async def second():
    await asyncio.sleep(0)
    did.append("second")

@torpor.agent
def main():
    import threading
    loop = asyncio.get_event_loop_policy().get_event_loop()
    loop.close()
    return [did, "colorsys" in sys.modules, context.get(), os.path.exists("written")]

@torpor.warm
def third():
    did.append("third")
"""


def test_hooks_run_once_in_their_order_before_there_is_a_run(driver: Driver) -> None:
    assert driver.load(HOOKS)["t"] == "loaded"
    assert driver.out == b"warming\n"
    driver.start()
    did, imported, context, written = driver.hear("done")["value"]
    doubled, refused, *others = did
    assert (doubled, others) == (8, ["second", "third"])
    assert refused.startswith("torpor.approve works only inside a run")
    assert refused.endswith("a warm hook is not a run")
    assert (imported, context, written) == (True, "as it was", True)
    assert not driver.said("begin")
    assert not driver.said("note")
    assert not driver.said("end")  # what a hook wrote is nothing that the run left


CALLS = [
    "ask()",
    "try:\n        ask()\n    except OSError as error:\n        raise ValueError('no') from error",
    "try:\n        ask()\n    except OSError:\n        raise ValueError('no') from None",
    "raise ExceptionGroup('both', [Exception('torpor: not yet'), Exception('torpor: not yet')])",
]


@pytest.mark.parametrize("body", CALLS)
def test_a_hook_may_end_by_a_model_call_which_reaches_nobody(driver: Driver, body: str) -> None:
    source = f"""{ASK}
@torpor.warm
def hook():
    {body}

@torpor.warm
async def other():
    ask()

@torpor.agent
def main():
    return ask()
"""
    driver.answer = lambda begin: {"status": 200, "headers": {}, "body": "{}"}
    assert driver.load(source)["t"] == "loaded"
    assert not driver.said("begin")
    driver.start()
    assert driver.hear("done")["value"] == 200


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("[][1]", "IndexError: list index out of range"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        ("sys.exit(3)", "RuntimeError: the warm hook hook called sys.exit(3)"),
        ("torpor.sleep(1)", "OutsideRun: torpor.sleep works only inside a run"),
        (
            "raise ExceptionGroup('both', [Exception('torpor: not yet'), KeyError('x')])",
            "ExceptionGroup: both",
        ),
    ],
)
def test_what_else_a_hook_raises_is_as_of_an_import(
    driver: Driver, body: str, problem: str
) -> None:
    source = f"""{ASK}
@torpor.warm
def hook():
    {body}

@torpor.agent
def main(): ...
"""
    failed = driver.load(source)
    assert failed["t"] == "load_failed"
    assert failed["error"].startswith(problem)
    assert "in hook" in failed["traceback"] or "warm hook hook" in failed["traceback"]


def test_a_hook_that_forks_leaves_one_agent(driver: Driver) -> None:
    source = """
import os, torpor

@torpor.warm
def hook():
    os.fork()

@torpor.agent
def main(): return "one"
"""
    assert driver.value(source) == "one"
    assert b"a process that the agent forked" in driver.err


def test_where_it_is_while_a_hook_takes_long(driver: Driver) -> None:
    driver.send_files(
        {
            "agent.py": "import threading, torpor\n@torpor.agent\ndef main(): ...\n"
            "@torpor.warm\ndef hook():\n    threading.Event().wait()\n"
        }
    )
    driver.say("load", entry="agent.py", deps=False, version="v1")
    assert driver.hear("importing")["what"] == "agent.py:6"


def test_in_plain_python_a_hook_is_a_function() -> None:
    @torpor.warm
    def hook() -> int:
        return 5

    @torpor.warm
    async def other(number: int = 6) -> int:
        return number

    assert (hook(), asyncio.run(other())) == (5, 6)
    with pytest.raises(TypeError, match="must not need arguments"):
        torpor.warm(lambda number: number)  # type: ignore[type-var]


def test_errors_that_go_round_in_circles_are_read_once() -> None:
    one, other = ValueError("one"), ValueError("other")
    one.__context__, other.__context__ = other, one
    assert not is_not_yet(one)
