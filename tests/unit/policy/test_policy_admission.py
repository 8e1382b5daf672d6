"""How much of a host its runs may take, and that no size starves."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from torpor.policy.admission import (
    MEMORY_RESERVE_MIB,
    RUNS_PER_CORE,
    Capacity,
    Rank,
    Room,
    Share,
    capacity,
    rank,
)

ENGINE = "e"
SIZES = st.integers(1, 40)
SHARES = st.builds(Share, st.builds(rank, st.integers(-2, 2), st.uuids().map(str)), SIZES)


def room(mib: int, runs: int = 100) -> Room:
    return Room(Capacity(mib, runs), frozenset({ENGINE}))


def put(at: Room, share: Share) -> bool:
    """As `torpor.policy.queues.choose` does with one that nothing else holds up."""
    if at.fits(ENGINE, share):
        at.take(share)
        return True
    at.reserve(ENGINE, share)
    return False


def test_a_hosts_capacity() -> None:
    assert capacity(2, MEMORY_RESERVE_MIB + 512) == Capacity(512, 2 * RUNS_PER_CORE)
    assert capacity(1, 100) == Capacity(0, RUNS_PER_CORE)


@given(st.integers(1, 100), st.integers(1, 10), st.lists(SHARES, unique_by=lambda each: each.rank))
def test_no_more_is_taken_than_there_is_but_by_one_that_is_larger_than_the_host(
    mib: int, runs: int, shares: list[Share]
) -> None:
    at = room(mib, runs)
    for share in sorted(shares, key=lambda each: each.rank):
        put(at, share)
    assert len(at.taken) <= runs
    larger = [share for share in at.taken if share.mib > mib]
    assert len(larger) <= 1
    assert at.taken_mib <= mib + sum(share.mib for share in larger)
    if shares:
        assert at.taken  # be the host ever so small


@given(SHARES)
def test_an_engine_that_is_not_ready_carries_nothing_and_holds_up_nobody(share: Share) -> None:
    at = room(100)
    assert not at.fits("other", share)
    at.reserve("other", share)
    assert not at.reserved and at.fits(ENGINE, share)


def test_smaller_ones_go_past_a_large_one_as_long_as_it_could_go_beside_them() -> None:
    at = room(10)
    at.take(Share(rank(0, "a"), 6))  # has been running
    assert not put(at, Share(rank(0, "b"), 7))
    assert put(at, Share(rank(0, "c"), 2))
    assert put(at, Share(rank(0, "d"), 1))
    assert not put(at, Share(rank(0, "e"), 1))  # there is room, which is kept
    assert put(at, Share(rank(1, "f"), 1))  # it goes before the large one
    at.taken = [each for each in at.taken if each.rank not in {rank(0, "a"), rank(1, "f")}]
    at.reserved.clear()
    assert put(at, Share(rank(0, "b"), 7))


def test_one_that_is_larger_than_the_host_holds_up_nobody_and_waits_for_nobody() -> None:
    at = room(10)
    at.take(Share(rank(0, "a"), 1))
    larger = Share(rank(0, "b"), 11)
    at.reserve(ENGINE, larger)
    assert not at.reserved and at.fits(ENGINE, Share(rank(0, "c"), 9))
    assert put(at, larger)
    assert not at.fits(ENGINE, Share(rank(0, "d"), 12))  # one at a time


def test_a_child_goes_whatever_its_parent_takes() -> None:
    """The parent may be waiting for it, and gives nothing back until it ends."""
    at = room(10)
    at.take(Share(rank(0, "parent"), 8))
    child = Share(rank(0, "run"), 8)
    assert not at.fits(ENGINE, child)
    assert not at.fits(ENGINE, child, "another")
    assert at.fits(ENGINE, child, "parent")
    at.capacity = Capacity(10, 1)
    assert not at.fits(ENGINE, child, "parent")


@given(st.integers(1, 30), st.integers(1, 6), st.integers(0, 2**32), st.booleans())
def test_a_large_one_goes_soon_however_many_small_ones_come(
    mib: int, steps_max: int, seed: int, before: bool
) -> None:
    """Each run runs for at most so many steps, and new ones never stop coming: one of any size goes
    when those have ended that ran when it came, and those that it let go before itself."""
    draw = random.Random(seed)
    large = Share(rank(0, "m"), draw.randint(1, 2 * mib))
    running: dict[Rank, tuple[Share, int]] = {}
    names = iter(f"n{number:09}" for number in range(10**9))
    for step in range(3 * steps_max + 2):
        running = {key: one for key, one in running.items() if one[1] > step}
        waiting = [Share(rank(0, next(names)), draw.randint(1, mib)) for _ in range(5)]
        arrived = step >= steps_max or before
        at = room(mib, 8)
        at.taken = [share for share, _ in running.values()]
        for share in sorted([*waiting, *([large] if arrived else [])], key=lambda each: each.rank):
            if put(at, share):
                running[share.rank] = share, step + draw.randint(1, steps_max)
        if large.rank in running:
            return
    raise AssertionError(f"{large} never went")
