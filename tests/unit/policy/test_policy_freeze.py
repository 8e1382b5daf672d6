"""When a machine is frozen: properties of the decision, and machines that live by it."""

from __future__ import annotations

from dataclasses import replace
from itertools import cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from torpor.policy.freeze import (
    BUSY_AGAIN_S,
    MACHINE,
    OVERDUE_S,
    PROCESS,
    QUIET_CPU_SHARE,
    Facts,
    Freeze,
    Stay,
    Terms,
    call_patience,
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
    calls=st.integers(0, 2),
    quiet_s=SECONDS,
)
TERMS = st.builds(
    Terms,
    grace_s=st.floats(0.01, 10),
    worth_s=st.floats(0, 100),
    patience_s=st.floats(0, 10),
    call_s=st.none() | st.floats(0, 20),
)
ASLEEP = Facts(waiting=1, busy=0, in_flight=0, waited_s=60.0, cpu_share=0.0, ends_in_s=None)


@given(FACTS, TERMS)
def test_only_what_waits_alone_long_enough_and_for_long_is_frozen(
    facts: Facts, terms: Terms
) -> None:
    frozen = isinstance(decide(facts, terms), Freeze)
    waits = facts.waiting > 0 and not facts.busy
    since_s = facts.waited_s
    if facts.calls:
        waits = terms.call_s is not None and facts.quiet_s >= terms.call_s
        since_s = min(since_s, facts.quiet_s)
    waits = waits and not facts.in_flight
    ends_in_s = facts.ends_in_s
    worth = ends_in_s is None or ends_in_s >= terms.worth_s or ends_in_s <= -OVERDUE_S
    quiet = facts.cpu_share <= QUIET_CPU_SHARE or since_s >= terms.patience_s
    assert frozen == (waits and worth and quiet and since_s >= terms.grace_s)


@given(FACTS, TERMS)
def test_who_stays_says_why_and_looks_again_when_time_may_change_it(
    facts: Facts, terms: Terms
) -> None:
    match decide(facts, terms):
        case Stay(why, again_s):
            assert why
            more_s = terms.grace_s + terms.patience_s + (terms.call_s or 0.0)
            later = replace(facts, waited_s=facts.waited_s + more_s, quiet_s=facts.quiet_s + more_s)
            if facts.ends_in_s is not None and again_s is not None:
                later = replace(later, ends_in_s=facts.ends_in_s - again_s)
            if again_s is None:
                # Time alone changes nothing: some message will.
                assert isinstance(decide(later, terms), Stay)
            else:
                at_most_s = (terms.grace_s, BUSY_AGAIN_S, terms.worth_s + OVERDUE_S)
                assert 0 < again_s <= max(*at_most_s, terms.call_s or 0.0)
                assert isinstance(decide(later, terms), Freeze) or _nearly_over(later, terms)


def _nearly_over(facts: Facts, terms: Terms) -> bool:
    return facts.ends_in_s is not None and facts.ends_in_s < terms.worth_s


@given(FACTS, TERMS, st.floats(0, 100))
def test_waiting_longer_never_wakes_a_machine(facts: Facts, terms: Terms, more_s: float) -> None:
    if isinstance(decide(facts, terms), Freeze):
        later = replace(facts, waited_s=facts.waited_s + more_s, quiet_s=facts.quiet_s + more_s)
        assert isinstance(decide(later, terms), Freeze)


CALLING = replace(ASLEEP, waiting=0, busy=1, calls=1)


@given(st.floats(0, 100), st.floats(0, 100))
def test_a_call_is_slept_under_once_it_has_been_quiet_for_what_a_freeze_takes(
    quiet_s: float, cost_s: float
) -> None:
    """So that waiting costs at most twice the least that it could."""
    terms = replace(MACHINE, call_s=call_patience(True, cost_s))
    decided = decide(replace(CALLING, quiet_s=quiet_s), terms)
    assert isinstance(decided, Freeze) == (quiet_s >= max(cost_s, MACHINE.grace_s))


def test_a_rule_says_otherwise() -> None:
    quiet = replace(CALLING, quiet_s=6.0)
    for rule, frozen in ((False, False), (True, True), (5.0, True), (7.0, False)):
        terms = replace(MACHINE, call_s=call_patience(rule, 1.0))
        assert isinstance(decide(quiet, terms), Freeze) == frozen


def test_a_process_stays_under_its_calls() -> None:
    assert isinstance(decide(replace(CALLING, quiet_s=1e6), PROCESS), Stay)


@given(
    st.lists(st.floats(0, 1.5), min_size=1, max_size=20),
    TERMS,
    st.none() | st.floats(100, 1e6),
)
def test_a_machine_that_waits_is_frozen_whatever_its_threads_do(
    shares: list[float], terms: Terms, ends_in_s: float | None
) -> None:
    """A model of the driver: it looks when it was told to, and sees some other CPU share."""
    waited_s = 0.0
    looks_max = int((terms.grace_s + terms.patience_s) / BUSY_AGAIN_S) + 3
    for share in islice(cycle(shares), looks_max):
        facts = replace(ASLEEP, waited_s=waited_s, cpu_share=share, ends_in_s=ends_in_s)
        match decide(facts, terms):
            case Freeze():
                longest_s = max(terms.grace_s, terms.patience_s) + BUSY_AGAIN_S
                assert terms.grace_s <= waited_s <= longest_s
                return
            case Stay(_, again_s):
                assert again_s is not None
                waited_s += again_s
    raise AssertionError("it was never frozen")
