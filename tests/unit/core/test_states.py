"""A run's life: what must not follow, then what may."""

from __future__ import annotations

import itertools

import pytest

from torpor.core.states import FINAL, TRANSITIONS, RunState, may_follow

QUEUED, RUNNING, SUSPENDED = RunState.QUEUED, RunState.RUNNING, RunState.SUSPENDED
COMPLETED, FAILED, CANCELLED = RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED

LEGAL = {
    *((QUEUED, RUNNING), (QUEUED, CANCELLED), (QUEUED, FAILED)),
    *((RUNNING, RUNNING), (RUNNING, SUSPENDED)),
    *((RUNNING, COMPLETED), (RUNNING, FAILED), (RUNNING, CANCELLED)),
    *((SUSPENDED, RUNNING), (SUSPENDED, CANCELLED), (SUSPENDED, FAILED)),
}
ILLEGAL = set(itertools.product(RunState, RunState)) - LEGAL


@pytest.mark.parametrize(("now", "then"), sorted(ILLEGAL))
def test_illegal(now: RunState, then: RunState) -> None:
    assert not may_follow(now, then)


@pytest.mark.parametrize(("now", "then"), sorted(LEGAL))
def test_legal(now: RunState, then: RunState) -> None:
    assert may_follow(now, then)


def test_nothing_follows_the_end_and_the_end_can_always_be_reached() -> None:
    assert set(TRANSITIONS) == set(RunState)
    assert {state for state, after in TRANSITIONS.items() if not after} == FINAL
    for state in set(RunState) - FINAL:
        assert may_follow(state, CANCELLED) and may_follow(state, FAILED)
    # No result without a machine.
    assert [state for state in RunState if may_follow(state, COMPLETED)] == [RUNNING]
