from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from torpor.pager import ranges

PAGES = st.lists(st.integers(0, 200), unique=True).map(lambda n: np.array(sorted(n), np.int64))


@given(st.lists(st.booleans(), max_size=100))
def test_runs_of_a_mask_are_its_true_elements_merged(mask: list[bool]) -> None:
    found = ranges.of_mask(np.array(mask, np.bool_))
    covered = [n for start, count in found for n in range(start, start + count)]
    assert covered == [n for n, true in enumerate(mask) if true]
    assert all(a + n < b for (a, n), (b, _) in pairwise(found))


@given(PAGES, st.integers(0, 5))
def test_bridged_fills_small_gaps_and_no_others(numbers: np.ndarray, gap: int) -> None:
    given_ = numbers.tolist()
    wanted = set(given_)
    for low, high in pairwise(given_):
        if high - low - 1 <= gap:
            wanted.update(range(low, high))
    assert ranges.bridged(numbers, gap=gap).tolist() == sorted(wanted)


@given(PAGES, st.integers(1, 8))
def test_chunks_cover_every_page_once_in_consecutive_pieces(
    numbers: np.ndarray, limit: int
) -> None:
    covered: list[int] = []
    for index, page, count in ranges.chunks(numbers, limit=limit):
        assert 1 <= count <= limit
        assert index == len(covered)
        covered += range(page, page + count)
    assert covered == numbers.tolist()
