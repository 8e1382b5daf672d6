"""Values at the agent's doors: exact, or refused by an error that the agent can catch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

REFUSED = """
    import sys, torpor
    sys.set_int_max_str_digits(0)

    def deep(levels):
        made = 1
        for _ in range(levels):
            made = [made]
        return made

    @torpor.step
    def gives(value): return value

    @torpor.agent
    def other(x=None): return x

    DOORS = {
        "step": lambda value: gives(value),
        "emit": lambda value: torpor.emit(value),
        "log": lambda value: torpor.log("x", value=value),
        "wait": lambda value: torpor.waitpoint("w", data=value),
        "approve": lambda value: torpor.approve("w", data=value),
        "spawn": lambda value: torpor.spawn(other, x=value),
        "context": lambda value: torpor.context.append("user", value),
    }
    VALUES = {
        "deep": deep(65), "nan": float("nan"), "half": "\\ud800", "digits": 10**4300,
        "object": object(), "keys": {1: 1, "1": 2},
    }

    @torpor.agent
    def main():
        found = {}
        for door, give in DOORS.items():
            for name, value in VALUES.items():
                try:
                    give(value)
                    found[f"{door} {name}"] = "taken"
                except (TypeError, ValueError) as error:
                    found[f"{door} {name}"] = str(error)
        return found
"""
SAYS = {
    "deep": "nested more than 64 deep",
    "nan": "NaN",
    "half": "half a surrogate pair",
    "digits": "4,300 digits",
    "object": "builtins.object is not JSON",
    "keys": "two keys",
}


def test_what_no_door_takes_can_be_caught_at_each(driver: Driver) -> None:
    found = driver.value(REFUSED, agent="main")
    assert len(found) == 7 * len(SAYS)
    for what, said in found.items():
        assert SAYS[what.split()[1]] in said, (what, said)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('float("nan")', "NaN and infinity are no JSON"),
        ('"\\ud800"', "half a surrogate pair"),
        ("[10**5000]", "4,300 digits"),
        ("DEEP", "nested more than 64 deep"),
    ],
)
def test_a_result_that_cannot_be_taken_is_a_clear_failure(
    driver: Driver, value: str, says: str
) -> None:
    ended = driver.run(
        f"""
        import torpor
        DEEP = 1
        for _ in range(65): DEEP = [DEEP]
        @torpor.agent
        def main(): return {value}
        """
    )
    assert (ended["t"], ended["type"]) == ("failed", "TypeError")
    assert ended["message"].startswith("the agent's result cannot be recorded: ")
    assert says in ended["message"]


def test_inputs_are_of_their_types_and_results_are_written_as_json(driver: Driver) -> None:
    driver.answer = lambda begin: {"status": "completed", "data": None}
    value = driver.value(
        """
        from __future__ import annotations
        import torpor
        from dataclasses import dataclass
        from datetime import date, timedelta
        from decimal import Decimal
        from enum import Enum

        class How(Enum):
            FAST = "fast"

        @dataclass
        class Line:
            sku: str
            due: date

        @torpor.step
        def shift(line: Line, days: int) -> Line:
            return Line(line.sku, line.due + timedelta(days=days))

        @torpor.agent
        def main(line: Line, how: How, price: Decimal = Decimal(1)):
            assert isinstance(line.due, date) and how is How.FAST
            return {"line": line, "shifted": shift(line, 2), "all": {how}, "price": price}
        """,
        line={"sku": "a", "due": "2026-11-27"},
        how="fast",
        price=1.10,
    )
    assert value == {
        "line": {"sku": "a", "due": "2026-11-27"},
        "shifted": {"sku": "a", "due": "2026-11-29"},
        "all": ["fast"],
        "price": "1.1",
    }


def test_what_does_not_fit_the_annotations_fails_before_the_agent_runs(driver: Driver) -> None:
    ended = driver.run(
        """
        import torpor
        @torpor.agent
        def main(n: int): raise AssertionError
        """,
        n="abc",
    )
    assert (ended["type"], ended["message"]) == (
        "Invalid",
        'the input does not fit agent main: n: "abc" is not a whole number. '
        "main takes n (a whole number).",
    )


CAUGHT = """
    import torpor
    class Bad(Exception):
        def __str__(self): raise KeyError("no text")
    @torpor.step
    def bad(): raise Bad
    @torpor.agent
    def main():
        found = []
        try:
            torpor.waitpoint("w", data="x" * 2_000_000)
        except ValueError as error:
            found.append(str(error))
        try:
            torpor.context.append("user", "é" * 400_000)
        except ValueError as error:
            found.append(str(error))
        try:
            bad()
        except torpor.StepError as error:
            found.append([error.type, error.message])
        torpor.emit(found)
        raise Bad
"""


def test_what_is_too_large_or_has_no_words_is_said(driver: Driver) -> None:
    ended = driver.run(CAUGHT)
    assert (ended["type"], ended["message"]) == (
        "agent.Bad",
        "(its text cannot be shown: KeyError)",
    )
    ((large, said, bad),) = [note["data"] for note in driver.said("note")]
    assert "2,000,0" in large and "characters of JSON; at most 1,044,480" in large
    assert "2,400," in said
    assert bad == ["agent.Bad", "(its text cannot be shown: KeyError)"]


@pytest.mark.parametrize("tags", ['"invoice"', '["invoice"]', '("invoice",)'])
def test_one_tag_is_one(driver: Driver, tags: str) -> None:
    driver.answer = answered
    driver.value(
        f"""
        import torpor
        @torpor.agent
        def main(): return torpor.approve("Pay?", tags={tags}).status
        """
    )
    assert [each["data"]["tags"] for each in driver.said("begin")] == [["invoice"]]


def answered(begin: dict[str, Any]) -> Any:
    return {"status": "completed", "approved": True}
