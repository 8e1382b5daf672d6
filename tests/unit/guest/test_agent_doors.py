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
    assert "2,000,0" in large and "characters of JSON; the limit is 1,044,480" in large
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


def test_what_is_too_large_or_of_no_use_can_be_caught_and_is_not_recorded(driver: Driver) -> None:
    found = driver.value(
        """
        import torpor
        LARGE = "x" * 2_000_000

        @torpor.agent
        def other(x=None): return x

        CALLS = {
            "waitpoint data": lambda: torpor.waitpoint(data=LARGE),
            "waitpoint schema": lambda: torpor.waitpoint(schema={"description": LARGE}),
            "waitpoint prompt": lambda: torpor.waitpoint(prompt=LARGE),
            "waitpoint name": lambda: torpor.waitpoint("\\ud800"),
            "waitpoint tags": lambda: torpor.waitpoint(tags=5),
            "waitpoint tag": lambda: torpor.waitpoint(tags=["t" * 300]),
            "waitpoint webhook": lambda: torpor.waitpoint(webhook=[5]),
            "waitpoint key": lambda: torpor.waitpoint(idempotency_key="k" * 300),
            "approve data": lambda: torpor.approve("?", data=LARGE),
            "event name": lambda: torpor.event("e" * 300),
            "log": lambda: torpor.log(LARGE),
            "emit": lambda: torpor.emit(LARGE),
            "context": lambda: torpor.context.append("user", LARGE),
            "spawn input": lambda: torpor.spawn(other, x=9 * LARGE),
            "spawn name": lambda: torpor.spawn("\\ud800"),
            "spawn list": lambda: torpor.spawn(other, [1]),
            "spawn_many inputs": lambda: torpor.spawn_many(other, [{"x": LARGE}] * 9),
            "spawn_many none": lambda: torpor.spawn_many(other, [None]),
            "step name": lambda: torpor.step(name="\\ud800")(other),
            "sleep": lambda: torpor.sleep("soon"),
            "sleep_until": lambda: torpor.sleep_until("noon"),
            "wait_any": lambda: torpor.wait_any([1]),
            "wait_all": lambda: torpor.wait_all(1),
        }

        @torpor.agent
        def main():
            found = {}
            for what, call in CALLS.items():
                try:
                    found[what] = repr(call())
                except (TypeError, ValueError) as error:
                    found[what] = str(error)
            return found
        """,
        agent="main",
    )
    says = {
        "waitpoint data": "torpor.waitpoint: 2,000,091 characters of JSON; the limit is 1,044,480",
        "waitpoint schema": "torpor.waitpoint: 2,000,108 characters of JSON",
        "waitpoint prompt": "torpor.waitpoint: prompt must be a string of 0 to 65536 characters",
        "waitpoint name": "torpor.waitpoint: it cannot be written as JSON",
        "waitpoint tags": "torpor.waitpoint: tags must be text or a list of texts, not 5",
        "waitpoint tag": "torpor.waitpoint: tags[0] must be a string",
        "waitpoint webhook": "torpor.waitpoint: webhook must be text or a list of texts, not [5]",
        "waitpoint key": "torpor.waitpoint: id_key must be a string of 1 to 256 characters",
        "approve data": "torpor.approve: 2,000,091 characters of JSON",
        "event name": "torpor.event: name must be a string",
        "log": "torpor.log: 2,000,044 characters of JSON",
        "emit": "torpor.emit: 2,000,002 characters of JSON",
        "context": "torpor.context.append: 2,000,079 characters of JSON",
        "spawn input": "torpor.spawn: it has 18,000,",
        "spawn name": "torpor.spawn: it cannot be written as JSON",
        "spawn list": "torpor.spawn: an input must be a dict of arguments by name, not [1]",
        "spawn_many inputs": "the inputs take 18,000,",
        "spawn_many none": "torpor.spawn_many: an input must be a dict of arguments by name",
        "step name": "half a surrogate pair is not text",
        "sleep": "'soon' is not a duration",
        "sleep_until": "give unix seconds or a datetime",
        "wait_any": "torpor.wait_any takes waits one by one: write torpor.wait_any(*waits)",
        "wait_all": "torpor.wait_all takes results of torpor.waitpoint, event and spawn, not 1",
    }
    assert found.keys() == says.keys()
    for what, said in says.items():
        assert said in found[what], (what, found[what])
    assert not [each for each in driver.log if each["t"] in ("begin", "batch", "note")]


MUTE = """
    import threading
    import torpor

    class Mute(Exception):
        def __str__(self): raise ValueError("no")
        __repr__ = __str__

    class Exits(Mute):
        def __str__(self): raise SystemExit(3)
        __repr__ = __str__

    class Nothing(Exception):
        def __getattribute__(self, name): raise RuntimeError(name)

    class Loop(Exception):
        def __str__(self): return str(self)

    @torpor.step
    def step(cls): raise cls()

    def cause(cls): raise ValueError("outer") from cls()

    def group(cls): raise ExceptionGroup("several", [cls(), ValueError("fine")])

    def fails(cls): raise cls()

    def noted(cls):
        error = ValueError("outer")
        error.__notes__ = [cls()]
        raise error

    def thread(cls):
        at_work = threading.Thread(target=step, args=(cls,))
        at_work.start()
        at_work.join()
        raise ValueError("outer")

    @torpor.agent
    def main(how, cls): globals()[how](globals()[cls])
"""


@pytest.mark.parametrize("how", ["fails", "step", "cause", "group", "noted", "thread"])
@pytest.mark.parametrize("cls", ["Mute", "Exits", "Nothing", "Loop"])
def test_an_exception_that_cannot_be_shown_fails_the_run_as_what_it_is(
    driver: Driver, how: str, cls: str
) -> None:
    ended = driver.run(MUTE, how=how, cls=cls)
    assert ended["t"] == "failed"
    if how in ("fails", "step"):
        assert ended["type"].rpartition(".")[2] == cls
        if cls != "Nothing":  # whose str() is that of its arguments
            assert ended["message"].startswith("(its text cannot be shown: ")
    else:
        assert ended["type"] == ("ExceptionGroup" if how == "group" else "ValueError")
    assert f"in {how}" in ended["traceback"]
