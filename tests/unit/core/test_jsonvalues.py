from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from tests.jsonvalues import VALUES, exact

from torpor.core.jsonvalues import DEPTH_MAX, INT_DIGITS_MAX, fault, read


@given(VALUES)
def test_what_json_can_say_is_taken_exactly(value: Any) -> None:
    assert fault(value) is None
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False).encode()):
        assert exact(read(text)) == exact(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NaN", "NaN"),
        ("[-Infinity]", "Infinity"),
        ("1e400", "1e400, which is larger"),
        ('"\\ud800"', "surrogate"),
        ('{"\\udfff": 1}', "surrogate"),
        ("9" * (INT_DIGITS_MAX + 1), "4,300 digits"),
        ("[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1), "64 deep"),
        ("[" * 100_000, "64 deep"),
        ('{"a": ' * 65 + "1" + "}" * 65, "64 deep"),
        ("", "Expecting value"),
        (b"\xff", "UTF-8"),
    ],
    ids=lambda value: ascii(value[:12]),
)
def test_what_would_not_get_through_every_door_is_refused(text: str | bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read(text)


def test_the_limits_themselves_are_taken() -> None:
    for text in (
        "[" * DEPTH_MAX + "]" * DEPTH_MAX,
        "-" + "9" * INT_DIGITS_MAX,
        '"' + "9" * 5000 + '"',
    ):
        assert exact(read(text)) == text


@pytest.mark.parametrize(
    "make",
    [lambda: float("nan"), lambda: [float("inf")], lambda: {"k": "\udfff"}, lambda: 10**4300],
    ids=["nan", "infinity", "text", "digits"],
)
def test_a_value_says_what_is_wrong_with_it(make: Callable[[], Any]) -> None:
    assert fault(make()) is not None
