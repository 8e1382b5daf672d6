"""Recovery's decision table: every combination of facts, and what must be true of what it says."""

from __future__ import annotations

from itertools import product

from torpor.core.states import FINAL, RunState, may_follow
from torpor.core.workers import Holder
from torpor.policy.recovery import TABLE, Act, Driver, Facts, Origins, decide

YES_NO = (False, True)
ALL = [
    Facts(*facts)
    for facts in product(RunState, Driver, YES_NO, YES_NO, YES_NO, YES_NO, YES_NO, Origins, Holder)
]
ENDS = {
    Act.CANCEL: RunState.CANCELLED,
    Act.GIVE_UP: RunState.FAILED,
    Act.CANNOT_RESTORE: RunState.FAILED,
}


def test_exactly_one_row_matches_whatever_is_true() -> None:
    assert len(ALL) == 6 * 4 * 2**5 * 4 * 3
    for facts in ALL:
        matching = [row.name for row in TABLE if row.matches(facts)]
        assert len(matching) == 1, (facts, matching)


def test_each_row_matches_something_and_each_act_is_in_a_row() -> None:
    for row in TABLE:
        assert any(row.matches(facts) for facts in ALL), row.name
    assert {row.act for row in TABLE} == set(Act)
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_what_is_done_is_a_move_that_a_run_can_make() -> None:
    for facts in ALL:
        act = decide(facts)
        if act is Act.CLAIM:
            assert may_follow(facts.state, RunState.RUNNING)
        elif act in ENDS:
            assert may_follow(facts.state, ENDS[act])
        elif act is not Act.LEAVE:
            assert facts.state is RunState.RUNNING, facts


def test_nothing_is_touched_that_has_ended_sleeps_or_is_the_next_servers() -> None:
    for facts in ALL:
        asleep = facts.state is RunState.SUSPENDED and not facts.ready and not facts.cancel
        if facts.state in FINAL or asleep or facts.handing_over:
            assert decide(facts) is Act.LEAVE, facts


def test_only_who_holds_a_run_restores_or_ends_it() -> None:
    """Rule 4: the epoch is claimed first. A run that nobody is at may be cancelled: it has no
    machine."""
    for facts in ALL:
        at_rest = facts.state is not RunState.RUNNING and facts.driver is Driver.NONE
        if decide(facts) is Act.CANCEL and at_rest:
            assert facts.cancel
        elif decide(facts) not in (Act.LEAVE, Act.CLAIM):
            assert facts.driver in (Driver.HOLDS, Driver.LOST), facts


def test_no_run_is_left_lying() -> None:
    """What is running and nobody's is claimed, whatever else is true, unless this server stops; so
    is what another worker does not hold any more, if there is room; and who holds a run always has
    something to do with it."""
    for facts in ALL:
        if facts.state is RunState.RUNNING and not facts.handing_over:
            claims = facts.driver is Driver.CLAIMS
            others = facts.holder is not Holder.NONE and facts.driver is not Driver.HOLDS
            taken_over = facts.holder is Holder.LATE and facts.driver is Driver.NONE and facts.room
            left = claims or (others and not taken_over)
            assert (decide(facts) is Act.LEAVE) == left, facts


def test_a_cancelled_run_gets_no_machine() -> None:
    for facts in ALL:
        if facts.cancel:
            assert decide(facts) not in (Act.RESTORE, Act.WAIT, Act.RENEW, Act.GIVE_UP), facts


def test_what_another_worker_carries_is_left_alone() -> None:
    for facts in ALL:
        if facts.state is not RunState.RUNNING or facts.driver is Driver.HOLDS:
            continue
        if facts.holder is Holder.OTHER:
            assert decide(facts) is Act.LEAVE, facts
        if facts.holder is Holder.LATE and decide(facts) is not Act.LEAVE:
            assert decide(facts) is Act.CLAIM and facts.room and facts.driver is Driver.NONE
