"""Records of bases."""

from __future__ import annotations

from typing import Any

from torpor.contextlog.bases import BaseRow, forget_bases, list_bases, put_base, use_base

MADE: dict[str, Any] = {"link": {"sent": 1}, "bytes": 7}


def test_a_base_is_found_by_its_key_which_is_a_use_of_it(commit: Any) -> None:
    commit(lambda c: put_base(c, "a", manifest="m1", now=1.0, **MADE))
    commit(lambda c: put_base(c, "b", manifest="m2", now=2.0, **MADE))
    assert [row.key for row in commit(list_bases)] == ["b", "a"]
    found = commit(lambda c: use_base(c, "a", 3.0))
    assert found == BaseRow("a", "m1", {"sent": 1}, 7, 1.0, 3.0)
    assert [row.key for row in commit(list_bases)] == ["a", "b"]
    assert commit(lambda c: use_base(c, "c", 4.0)) is None


def test_a_base_takes_the_place_of_the_one_with_its_key(commit: Any) -> None:
    commit(lambda c: put_base(c, "a", manifest="m1", now=1.0, **MADE))
    commit(lambda c: put_base(c, "a", manifest="m2", now=2.0, **MADE))
    assert [row.manifest for row in commit(list_bases)] == ["m2"]
    commit(lambda c: forget_bases(c, ["a", "x"]))
    assert commit(list_bases) == []
