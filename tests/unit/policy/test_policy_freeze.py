"""When a machine is frozen: properties of the decision, and machines that live by it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from torpor.policy.freeze import (
    GRACE_S,
    PATIENCE_S,
    QUIET_CPU_SHARE,
    WORTH_S,
    Facts,
    Freeze,
    Stay,
    decide,
)

SECONDS = st.floats(0, 100)
FACTS = st.builds(
    Facts,
    waiting=st.integers(0, 3),
    busy=st.integers(0, 2),
    in_flight=st.integers(0, 2),
    waited_s=SECONDS,
    cpu_share=st.floats(0, 1.5),
    ends_in_s=st.none() | st.floats(-10, 1000),
)
ASLEEP = Facts(waiting=1, busy=0, in_flight=0, waited_s=60.0, cpu_share=0.0, ends_in_s=None)


@given(FACTS)
def test_only_what_waits_alone_long_enough_and_for_long_is_frozen(facts: Facts) -> None:
    frozen = isinstance(decide(facts), Freeze)
    waits = facts.waiting > 0 and not facts.busy and not facts.in_flight
    worth = facts.ends_in_s is None or facts.ends_in_s >= WORTH_S
    quiet = facts.cpu_share <= QUIET_CPU_SHARE or facts.waited_s >= PATIENCE_S
    assert frozen == (waits and worth and quiet and facts.waited_s >= GRACE_S)


@given(FACTS)
def test_who_stays_says_why_and_looks_again_when_time_may_change_it(facts: Facts) -> None:
    match decide(facts):
        case Stay(why, again_s):
            assert why
            later = replace(facts, waited_s=facts.waited_s + PATIENCE_S)
            if again_s is None:
                # Time alone changes nothing: some message will.
                assert isinstance(decide(later), Stay)
            else:
                assert 0 < again_s <= GRACE_S
                assert isinstance(decide(later), Freeze)


@given(FACTS, st.floats(0, 100))
def test_waiting_longer_never_wakes_a_machine(facts: Facts, more_s: float) -> None:
    if isinstance(decide(facts), Freeze):
        assert isinstance(decide(replace(facts, waited_s=facts.waited_s + more_s)), Freeze)


@given(st.lists(st.floats(0, 1.5), min_size=100, max_size=100), st.none() | st.floats(WORTH_S, 1e6))
def test_a_machine_that_waits_is_frozen_whatever_its_threads_do(
    shares: list[float], ends_in_s: float | None
) -> None:
    """A model of the driver: it looks when it was told to, and sees some other CPU share."""
    waited_s = 0.0
    for share in shares:
        match decide(replace(ASLEEP, waited_s=waited_s, cpu_share=share, ends_in_s=ends_in_s)):
            case Freeze():
                assert GRACE_S <= waited_s <= PATIENCE_S + GRACE_S
                return
            case Stay(_, again_s):
                assert again_s is not None
                waited_s += again_s
    raise AssertionError("it was never frozen")
