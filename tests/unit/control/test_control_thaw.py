"""A journal is said in parts that fit a message, in order, without loss."""

from __future__ import annotations

import json
from typing import Any, cast
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from torpor.machines import thaw
from torpor.machines.guest import Guest

PART = 4000  # small, so that lists of small records have several


class Ear:
    def __init__(self) -> None:
        self.heard: list[list[dict[str, Any]]] = []

    def say(self, t: str, *, records: list[dict[str, Any]]) -> None:
        assert t == "journal"
        self.heard.append(records)


@given(st.lists(st.integers(0, 3000), max_size=12))
def test_parts(sizes: list[int]) -> None:
    journal = [{"op": f"step:s#{n}", "value": "x" * size} for n, size in enumerate(sizes)]
    ear = Ear()
    with patch.object(thaw, "JOURNAL_PART_BYTES", PART):
        last = thaw.say_journal(cast(Guest, ear), journal)
    parts = [*ear.heard, last]
    assert [record for part in parts for record in part] == journal
    for part in parts:
        size = sum(len(json.dumps(record)) for record in part)
        assert size <= PART or len(part) == 1
    assert all(ear.heard)  # no empty message is sent
