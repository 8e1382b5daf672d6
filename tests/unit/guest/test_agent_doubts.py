"""What is in doubt, and what is read once, in a real agent process."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.unit.guest.conftest import Driver

SOURCE = """
    import asyncio, torpor
    ran = []
    @torpor.step(on_doubt="ask")
    def pay(pence):
        ran.append(pence)
        return {"paid": pence}
    @torpor.step(on_doubt="ask")
    async def pay_async(pence):
        ran.append(pence)
        return {"paid": pence}
    @torpor.agent
    def main(asynchronous=False):
        try:
            paid = asyncio.run(pay_async(5)) if asynchronous else pay(5)
        except torpor.StepError as error:
            paid = [error.type, str(error)]
        return [paid, ran]
"""
DOUBT = {"again": 0}
OUTCOMES: dict[str, tuple[dict[str, Any], Any, int]] = {
    "again": ({"do": "again"}, {"paid": 5}, 1),
    "done": ({"do": "done", "result": {"paid": 4}}, {"paid": 4}, 0),
    "fail": (
        {"do": "fail", "message": "no trace"},
        ["torpor.sdk.errors.NonRetryable", "no trace"],
        0,
    ),
}


def answered(data: Any) -> dict[str, Any]:
    return {"status": "completed", "data": data, "approved": None, "note": None, "by": "ada"}


def in_doubt(driver: Driver, **given: Any) -> dict[str, Any]:
    """The record of the step, as it is after a crash in the middle of it."""
    driver.record = False
    driver.load(SOURCE)
    driver.start(**given)
    driver.hear("end")
    (record,) = driver.journal()
    return {key: record[key] for key in record if key not in ("ok", "value")} | DOUBT


@pytest.mark.parametrize("choice", OUTCOMES)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_step_in_doubt_waits_for_a_person(
    drive: Callable[[], Driver], choice: str, asynchronous: bool
) -> None:
    doubt = in_doubt(drive(), asynchronous=asynchronous)
    said, paid, runs = OUTCOMES[choice]
    driver = drive()
    driver.load(SOURCE)
    driver.start(journal=[doubt], asynchronous=asynchronous)
    question = driver.hear("begin")
    assert (question["kind"], question["name"]) == ("doubt", doubt["op"])
    driver.until(lambda: bool(driver.said("status", waiting=1, busy=0)))
    driver.say("result", op=question["op"], ok=True, value=answered(said))
    assert driver.hear("done")["value"] == [paid, [5] * runs]
    assert [each["op"] for each in driver.said("begin")[1:]] == [doubt["op"]] * runs
    assert [each["op"] for each in driver.said("end")] == [doubt["op"]]

    # The answer is in the log; another crash came before the step's end was.
    asked = {key: question[key] for key in ("op", "kind", "name", "digest")}
    again = drive()
    journal = [doubt, {**asked, "ok": True, "value": answered(said)}]
    assert again.value(SOURCE, journal=journal, asynchronous=asynchronous) == [paid, [5] * runs]
    assert not again.said("begin", kind="doubt")

    # All of it is.
    whole = drive()
    ended = {key: driver.said("end")[0].get(key) for key in ("ok", "value", "error")}
    record = {**doubt, **{key: value for key, value in ended.items() if value is not None}}
    del record["again"]
    journal[0] = record
    assert whole.value(SOURCE, journal=journal, asynchronous=asynchronous)[1] == []
    assert not whole.said("begin")


def test_a_machine_is_not_frozen_in_the_middle_of_such_a_step(driver: Driver) -> None:
    driver.load(
        """
        import threading, torpor
        gate = threading.Event()
        @torpor.step(on_doubt="ask")
        def pay():
            torpor.log("paying")
            gate.wait()
        @torpor.agent
        def main():
            thread = threading.Thread(target=pay)
            thread.start()
            torpor.waitpoint("w").result()
            gate.set()
            thread.join()
            torpor.waitpoint("v").result()
        """
    )
    driver.start()
    driver.until(lambda: bool(driver.said("note") and driver.said("begin", kind="wait")))
    driver.say("prepare")
    assert "step:pay#1 is at work" in driver.hear("unprepared")["reason"]
    driver.say("result", op="wait:w#1", ok=True, value=answered(None))
    driver.hear("begin", op="wait:v#1")
    driver.say("prepare")
    driver.hear("prepared")


def test_an_unknown_way_to_treat_doubt_is_refused(driver: Driver) -> None:
    told = driver.load("import torpor\n@torpor.step(on_doubt='guess')\ndef a(): ...")
    assert "on_doubt='guess': one of again, ask" in told["error"]


def test_time_and_chance_are_read_once(drive: Callable[[], Driver]) -> None:
    source = """
        import torpor
        @torpor.step
        def inner():
            return [torpor.now().timestamp(), str(torpor.uuid4()), torpor.random().random()]
        @torpor.agent
        def main():
            draw = torpor.random()
            return [torpor.now().isoformat(), torpor.now().tzname(), [draw.random(), draw.random()],
                    torpor.random().random(), str(torpor.uuid4()), torpor.uuid4().version, inner()]
    """
    live = drive()
    value = live.value(source)
    assert (value[1], value[5]) == ("UTC", 4)
    assert len({*value[2], value[3]}) == 3
    assert [each["op"] for each in live.said("begin")] == [
        *("read:random#1", "read:now#1", "read:now#2", "read:random#2"),
        *("read:uuid4#1", "read:uuid4#2", "step:inner#1"),
    ]
    other = drive().value(source)
    assert not {value[0], value[4], *value[2]} & {other[0], other[4], *other[2]}
    replayed = drive()
    assert replayed.value(source, journal=live.journal()) == value
    assert not replayed.said("begin")
