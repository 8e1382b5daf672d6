"""What must come of a blow, and in which epoch it falls."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from tests.frameworks.blows import (
    ASLEEP,
    PLACES,
    VICTIMS,
    WAITING,
    Blow,
    InCall,
    Outcome,
    epoch_at,
    expected,
    faults,
    possible,
    sweep,
)

RIGHT = Outcome(
    state="completed",
    result="done: paid 6",
    error=None,
    payments={1: 1, 2: 1, 3: 1, 4: 1},
    effects={"a": 1, "b": 1},
    again={},
    slept=True,
    refused=(),
)
IN_TOOL = Blow("agent", "in pay 5")
IN_CALL = InCall(2, "asked")


def but(**changes: object) -> Outcome:
    return Outcome(**(vars(RIGHT) | changes))


def test_only_what_is_in_doubt_may_happen_twice_and_must_be_shown() -> None:
    assert faults([], RIGHT) == []
    twice = but(effects={"a": 2, "b": 1}, again={"step:pay#1": 1})
    assert faults([IN_TOOL], twice) == []
    assert faults([], twice) == ["bodies ran [1, 2] times"]
    assert faults([IN_TOOL], but(effects={"a": 2, "b": 1})) == [
        "the log shows 0 operations as begun again, not 1"
    ]
    paid = but(payments={1: 1, 2: 2, 3: 1, 4: 1})
    assert faults([Blow("broker", IN_CALL)], paid) == []
    # A call in flight outlives its agent and its server.
    for victim in VICTIMS[:2]:
        assert faults([Blow(victim, IN_CALL)], paid) == ["call 2 was paid for 2 times, not 1"]


@pytest.mark.parametrize(
    ("outcome", "fault"),
    [
        (but(state="failed", error="no"), "failed: no"),
        (but(result="else"), "completed: else"),
        (but(payments={1: 1, 2: 1, 3: 1}), "call 4 was paid for 0 times, not 1"),
        (but(payments=dict.fromkeys(range(1, 6), 1)), "call 5 was paid for 1 times, not 0"),
        (but(effects={"a": 1, "b": 1, "c": 1}), "3 effects by their keys, not 2"),
        (but(slept=False), "never slept"),
        (but(refused=["why"]), "the model refused: why"),
    ],
)
def test_what_is_wrong_is_reported(outcome: Outcome, fault: str) -> None:
    assert faults([], outcome) == [fault]


@pytest.mark.parametrize("victim", VICTIMS)
def test_epochs_count_deaths_and_the_sleep(victim: str) -> None:
    blows = [blow for place in PLACES if possible(blow := Blow(victim, place))]  # type: ignore[arg-type]
    epochs = [epoch_at(blows, number) for number in range(len(blows))]
    if victim == "broker":
        slept = len(PLACES) - 1 - PLACES.index(ASLEEP)
        assert Counter(epochs) == {1: len(PLACES) - slept, 2: slept}
    else:
        assert epochs == sorted(epochs) and epochs[-1] == len(PLACES)


def test_a_sweep_leaves_out_little() -> None:
    for victim, engine in itertools.product(VICTIMS, ("process", "qemu")):
        blows = sweep(victim, engine)
        assert {"start", "after ask", ASLEEP, WAITING} >= {
            place for place in PLACES if isinstance(place, str)
        } - {blow.place for blow in blows}
        calls = [blow.place for blow in blows if isinstance(blow.place, InCall)]
        assert {call.turn for call in calls} == {1, 2, 3, 4}
        assert {call.when for call in calls} == {"asked", "answering"}
        assert len(calls) == (4 if victim == "broker" else 8)


def test_two_bodies_may_be_in_doubt() -> None:
    both = [Blow("server", "in pay 5"), Blow("agent", "in pay 6")]
    assert expected(both).bodies == Counter({2: 2}) and expected(both).again == 2
