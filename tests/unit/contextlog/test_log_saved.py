"""Saved queries."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.contextlog import saved
from torpor.contextlog.saved import delete_query, save_query, saved_queries
from torpor.core.errors import Conflict, Invalid, NotFound


def test_a_query_is_saved_under_a_name_changed_and_deleted(commit: Any) -> None:
    commit(lambda c: save_query(c, " by  agent ", "SELECT 1", 1.0))
    commit(lambda c: save_query(c, "all", "SELECT 2", 2.0))
    commit(lambda c: save_query(c, "by agent", "SELECT 3", 3.0))
    found = [each.to_json() for each in commit(saved_queries)]
    assert found == [
        {"name": "all", "sql": "SELECT 2", "saved_at": 2.0},
        {"name": "by agent", "sql": "SELECT 3", "saved_at": 3.0},
    ]
    commit(lambda c: delete_query(c, "all"))
    with pytest.raises(NotFound, match="'all'"):
        commit(lambda c: delete_query(c, "all"))


@pytest.mark.parametrize(
    ("name", "sql"), [(" ", "x"), ("x" * 101, "x"), ("x", " "), ("x", "x" * 20_001)]
)
def test_what_cannot_be_saved_is_refused(commit: Any, name: str, sql: str) -> None:
    with pytest.raises(Invalid, match="characters"):
        commit(lambda c: save_query(c, name, sql, 1.0))
    assert commit(saved_queries) == []


def test_there_is_an_end_to_it(commit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved, "SAVED_MAX", 1)
    commit(lambda c: save_query(c, "one", "x", 1.0))
    with pytest.raises(Conflict, match="saved already"):
        commit(lambda c: save_query(c, "two", "x", 1.0))
    commit(lambda c: save_query(c, "one", "y", 1.0))
