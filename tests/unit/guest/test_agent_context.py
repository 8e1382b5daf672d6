"""The conversation: what of it a model is given, compacted and taken back; live and replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.guest.conftest import Driver

Object = dict[str, Any]

TALK = """
    import torpor

    def turn(n, words=10):
        return f"{n:02} " + "word " * words

    @torpor.agent
    def main():
        talk = torpor.context
        talk.count = lambda message: len(message["content"].split())
        talk.append("system", "Be brief.", pinned=True)
        for n in range(6):
            talk.append("user" if n % 2 == 0 else "assistant", turn(n))
        def shown(messages):
            return [message["content"][:2] for message in messages]
"""


def talked(driver: Driver, code: str, **more: Any) -> Any:
    lines = "\n".join(f"        {line}" for line in code.strip().splitlines())
    return driver.value(TALK + lines + "\n", **more)


def test_a_window_holds_what_is_pinned_and_the_newest(driver: Driver) -> None:
    value = talked(
        driver,
        """
all = shown(talk.window())
fits = shown(talk.window(2 + 33))
last = shown(talk.window(last=2))
both = shown(talk.window(2 + 33, last=1))
return [all, fits, last, both, len(talk.messages), talk.tokens]
""",
    )
    assert value == [
        ["Be", "00", "01", "02", "03", "04", "05"],
        ["Be", "03", "04", "05"],
        ["Be", "04", "05"],
        ["Be", "05"],
        7,
        68,
    ]
    told = [each["data"] for each in driver.said("begin") if each["name"] == "window"]
    assert told[1] == {"sent": 35, "whole": 68, "messages": 4, "of": 7}


def test_an_answer_of_a_tool_is_not_parted_from_its_call(driver: Driver) -> None:
    value = talked(
        driver,
        """
talk.append("assistant", "calls", tool_calls=[{"id": "1"}])
talk.append("tool", "first answer", tool_call_id="1")
talk.append("tool", "second answer", tool_call_id="1")
return [shown(talk.window(last=n)) for n in (1, 2, 3)]
""",
    )
    # The newest turn is whole, whatever was asked for.
    assert value == [["Be", "ca", "fi", "se"]] * 3


def test_older_messages_are_summarised_once_and_that_is_taken_back(driver: Driver) -> None:
    value = talked(
        driver,
        """
asked = []
def summarise(older):
    asked.append(shown(older))
    return "in short"
said = [shown(talk.window(40, summarise=summarise)) for _ in range(2)]
talk.append("user", turn(6))
talk.append("assistant", turn(7))
said.append(shown(talk.window(40, summarise=summarise)))
undone = [talk.expand(), shown(talk.window()), talk.expand(), talk.expand()]
return [said, asked, undone, shown(talk.window(last=3)), len(talk.messages)]
""",
    )
    said, asked, undone, last, many = value
    assert said == [["Be", "Su", "05"], ["Be", "Su", "05"], ["Be", "Su", "07"]]
    assert asked == [["00", "01", "02", "03", "04"], ["Su", "05", "06"]]
    assert undone == [True, ["Be", "Su", "05", "06", "07"], True, False]
    assert last == ["Be", "05", "06", "07"]
    assert many == 9
    begun = [each["data"] for each in driver.said("begin") if each["name"] == "compact"]
    assert begun[0] == {"upto": 6, "summary": "in short", "before": 55, "after": 8}


def test_what_was_said_is_replayed_and_not_said_again(drive: Callable[..., Driver]) -> None:
    code = """
talk.window(40, summarise=lambda older: "in short")
return shown(talk.window(40))
"""
    first, again = drive(), drive()
    value = talked(first, code)
    assert talked(again, code, journal=first.journal()) == value == ["Be", "Su", "05"]
    assert first.said("begin") and not again.said("begin")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("talk.window(0)", "tokens=0 leaves no room"),
        ("talk.window(last=-1)", "last=-1 leaves no room"),
        ("talk.window(5)", "13 tokens are needed"),
        ("talk.window(40, summarise=lambda older: 3)", "returned a int"),
        ("talk.compact('x', keep=-1)", "keep=-1"),
        ("talk.append('user', object())", "is not JSON"),
        ("torpor.step(lambda: talk.append('user', 'x'), name='s')()", "inside the step"),
    ],
)
def test_what_cannot_be_done_says_why(driver: Driver, call: str, says: str) -> None:
    value = talked(
        driver,
        f"""
try:
    {call}
except Exception as error:
    return [str(error), len(talk.messages)]
""",
    )
    assert says in value[0]
    assert value[1] == 7
