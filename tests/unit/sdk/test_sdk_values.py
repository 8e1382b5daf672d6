from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.sdk.values import NotJson, digest, pack, preview, unpack, written_result
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
        ({1, 2}, "builtins.set"),
        ([object()], "builtins.object"),
        (float("nan"), "NaN"),
        ({(1, 2): 3}, "keys"),
        (cycle(), "itself"),
        (deep(), "deep"),
    ],
    ids=["set", "object", "nan", "keys", "cycle", "deep"],
)
def test_what_cannot_be_recorded_is_named(value: Any, words: str) -> None:
    with pytest.raises(NotJson, match=words):
        pack(value)


class Plain:
    pass


@given(VALUES)
def test_digests_of_equal_arguments_are_equal(value: Any) -> None:
    assert digest(value) == digest(unpack(pack(value)))
    assert len(digest(value)) == 32


def test_digests_ignore_where_objects_are_and_how_sets_are_ordered() -> None:
    assert digest(Plain()) == digest(Plain())
    assert digest({"b", "a", "c"}) == digest({"c", "b", "a"})
    assert digest({1: "a", "b": 2}) == digest({1: "a", "b": 2})
    assert digest("\ud800") != digest("\ud801")
    assert digest(1) != digest("1")


def test_a_preview_is_small_and_sendable_whatever_the_arguments_are() -> None:
    assert preview((1, Plain()), {"x": {2}})["args"][0] == 1
    assert "omitted" in preview(("x" * 100_000,), {})
    assert "omitted" in preview((float("nan"),), {})
    json.dumps(preview(("\ud800",), {}), ensure_ascii=False).encode("utf-8", "surrogatepass")


def test_a_result_may_hold_dataclasses_a_recorded_value_may_not() -> None:
    results = [WaitResult("completed", data={"n": 1}, by="ana", name="w")]
    plain = {"status": "completed", "data": {"n": 1}, "approved": None, "note": None}
    assert json.loads(written_result(results)) == [{**plain, "by": "ana", "name": "w"}]
    with pytest.raises(NotJson, match="WaitResult is not JSON"):
        pack(results)
    with pytest.raises(NotJson, match="type is not JSON"):
        written_result([WaitResult])
