from __future__ import annotations

import json
import sys
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core import jsonvalues
from torpor.sdk.values import NotJson, pack, unpack, written
from torpor.sdk.waits import WaitResult

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
FINITE = SCALARS.filter(lambda value: value not in (float("inf"), float("-inf")))
VALUES = st.recursive(
    FINITE | st.binary(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text().filter(lambda k: k != "$bytes"), inner)
    ),
    max_leaves=20,
)


@given(VALUES)
def test_what_json_and_bytes_can_say_comes_back(value: Any) -> None:
    packed = json.loads(json.dumps(pack(value)))
    assert unpack(packed) == value


def test_what_comes_back_is_what_a_replay_would_give() -> None:
    assert unpack(pack({"a": (1, bytearray(b"x")), 2: True})) == {"a": [1, b"x"], "2": True}


def test_what_comes_back_is_nobody_elses() -> None:
    packed = pack([[1]])
    unpack(packed)[0].append(2)
    assert unpack(packed) == [[1]]


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = {"k": value} if levels % 2 else [value]
    return value


def cycle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def deep() -> list[Any]:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({1, object()}, "builtins.object"),
        ([object()], "builtins.object"),
        (float("nan"), "NaN"),
        ({(1, 2): 3}, "keys"),
        (cycle(), "itself"),
        (deep(), "deep"),
        (nested(jsonvalues.DEPTH_MAX + 1), "64 deep"),
        (10**jsonvalues.INT_DIGITS_MAX, "4,300 digits"),
        ("\ud800", "surrogate"),
        ({1: "a", "1": "b"}, "two keys"),
        ({"$bytes": "eA=="}, "stands for bytes"),
        (Decimal, "type is not JSON"),
    ],
    ids=[
        *("set", "object", "nan", "keys", "cycle", "deepest", "deep", "digits", "surrogate"),
        *("same-keys", "bytes-tag", "type"),
    ],
)
def test_what_cannot_be_recorded_is_named(value: Any, words: str) -> None:
    with pytest.raises(NotJson, match=words):
        pack(value)


class Colour(Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    due: date
    colours: set[Colour]


def test_what_programs_return_is_written_as_json_says_it() -> None:
    moment = datetime(2026, 11, 27, 8, 30, tzinfo=UTC)
    said = {
        "line": Line("a", date(2026, 11, 27), {Colour.RED}),
        "wait": WaitResult("completed", data=(1, 2), by="ana", name="w"),
        "at": [moment, time(8, 30), timedelta(days=1, seconds=90, microseconds=5)],
        "price": Decimal("1.10"),
        "id": UUID(int=1),
        "path": PurePosixPath("a/b"),
        "sets": [{3, 1, 2}, frozenset({"b", "a"})],
        "more": [deque([1]), MappingProxyType({"k": 1})],
        Colour.RED: {date(2026, 1, 2): 1},
    }
    assert pack(said) == {
        "line": {"sku": "a", "due": "2026-11-27", "colours": ["red"]},
        "wait": {
            "status": "completed",
            "data": [1, 2],
            "approved": None,
            "note": None,
            "by": "ana",
            "name": "w",
        },
        "at": ["2026-11-27T08:30:00+00:00", "08:30:00", "P1DT1M30.000005S"],
        "price": "1.10",
        "id": "00000000-0000-0000-0000-000000000001",
        "path": "a/b",
        "sets": [[1, 2, 3], ["a", "b"]],
        "more": [[1], {"k": 1}],
        "red": {"2026-01-02": 1},
    }


def test_a_model_of_pydantics_is_its_json() -> None:
    class Order(pydantic.BaseModel):
        total: Decimal
        lines: list[Line]

    order = Order(total=Decimal("2.50"), lines=[Line("a", date(2026, 1, 2), {Colour.RED})])
    assert pack([order]) == [order.model_dump(mode="json")]


def test_what_only_looks_like_bytes_is_a_dict() -> None:
    """An answer from outside may be anything."""
    assert unpack({"$bytes": "no base64"}) == {"$bytes": "no base64"}
    assert unpack({"$bytes": "eA=="}) == b"x"


@pytest.mark.parametrize("levels", range(60, 65))
def test_the_deepest_value_is_taken(levels: int) -> None:
    assert pack(nested(levels)) == nested(levels)


def test_a_limit_of_the_interpreter_that_is_off_changes_nothing() -> None:
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        with pytest.raises(NotJson, match="4,300 digits"):
            pack([10**5000])
    finally:
        sys.set_int_max_str_digits(before)
    assert pack(10**4299) == 10**4299
    assert written("9" * 5000) == f'"{"9" * 5000}"'
