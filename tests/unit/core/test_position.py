from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.core.ids import OpId
from torpor.core.position import VERSION, Position, StreamPosition

counts = st.integers(0, 2**63 - 1)
ops = st.text(min_size=1, max_size=20).map(OpId)
figures = st.dictionaries(st.sampled_from(["stdout", "stderr", "zero"]), counts)
streams = st.builds(StreamPosition, counts, st.binary(max_size=3), st.one_of(st.none(), counts))
positions = st.builds(
    Position,
    unanswered=st.frozensets(ops),
    waiting=counts,
    busy=counts,
    patient=st.booleans(),
    at_work=st.booleans(),
    streams=st.dictionaries(st.sampled_from([1, 2]), streams),
    printed=st.dictionaries(ops, figures),
    pages=figures,
)


@given(positions)
def test_it_comes_back_as_it_was(position: Position) -> None:
    assert Position.of_json(json.loads(json.dumps(position.to_json()))) == position


def test_without_a_version_what_is_absent_is_as_in_a_template() -> None:
    assert Position.of_json({}) == Position()
    assert Position.of_json({"pages": {"zero": 3}}) == Position(pages={"zero": 3})
    with pytest.raises(Invalid, match="lacks at_work, pages"):
        Position.of_json({"version": VERSION})


def test_a_newer_one_is_refused_by_its_version() -> None:
    newer = Position().to_json() | {"version": VERSION + 1, "streams": "of another form"}
    with pytest.raises(Invalid, match=f"version {VERSION + 1}; this torpor reads up to {VERSION}"):
        Position.of_json(newer)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": -1}, "version must be an integer"),
        ({"version": "1"}, "version must be an integer"),
        ({"unanswered": "step:a#1"}, "unanswered must be a list"),
        ({"unanswered": [1]}, "unanswered must be text"),
        ({"status": [1]}, "status must be two counts"),
        ({"status": [True, 0]}, "status must be an integer"),
        ({"patient": 1}, "patient must be true or false"),
        ({"at_work": None}, "at_work must be true or false"),
        ({"streams": {"3": {}}}, "streams must be of the channels"),
        ({"streams": {"1": {"offset": -1, "held": "", "after": None}}}, "offset must be"),
        ({"streams": {"1": {"offset": 0, "held": "%", "after": None}}}, "held must be base64"),
        ({"streams": {"1": {"offset": 0, "held": "AAAAAAAA"}}}, "held must be at most 3 bytes"),
        ({"streams": {"1": {"offset": 0, "held": "", "after": 0.5}}}, "after must be an integer"),
        ({"printed": {"step:a#1": {"stdout": "7"}}}, "printed must be an integer"),
        ({"pages": []}, "pages must be an object"),
    ],
)
def test_what_is_malformed_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    for before in (Position().to_json(), {}):
        with pytest.raises(Invalid, match=words):
            Position.of_json(before | change)


def test_it_is_an_object() -> None:
    with pytest.raises(Invalid, match="the position must be an object"):
        Position.of_json([])
