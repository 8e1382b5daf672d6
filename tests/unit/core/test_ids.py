"""Ids sort by age and tell what they are of."""

from __future__ import annotations

import secrets
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.ids import new_id, op_id

TIMES_MS = st.integers(0, 32**9 - 1)


def made_at(ms: int, draw: int, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(time, "time_ns", lambda: ms * 1_000_000)
    monkeypatch.setattr(secrets, "randbits", lambda bits: draw)
    return new_id("run")


@given(st.lists(st.tuples(TIMES_MS, st.integers(0, 2**35 - 1)), min_size=2, max_size=10))
def test_ids_sort_as_they_were_made(moments: list[tuple[int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        made = [made_at(ms, draw, patch) for ms, draw in moments]
    assert sorted(made) == [id for _, id in sorted(zip(moments, made, strict=True))]


def test_ids_are_of_their_kind_and_never_the_same() -> None:
    made = [new_id("wait") for _ in range(1000)]
    assert len(set(made)) == len(made)
    for each in made:
        prefix, _, rest = each.partition("_")
        assert prefix == "wait" and len(rest) == 16
        # What people mistake for one another is not in them.
        assert set(rest) <= set("0123456789abcdefghjkmnpqrstvwxyz")


def test_operations_are_named_by_their_count() -> None:
    assert op_id("step", "search", 3) == "step:search#3"
