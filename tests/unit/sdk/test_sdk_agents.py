from __future__ import annotations

from typing import Any

import pytest

from torpor.core.errors import Invalid
from torpor.sdk.agents import Agent


def plain(a: int, b: int = 2, *, c: int = 3) -> Any:
    """Adds up."""
    return [a, b, c]


def positional(a: int, /, b: int) -> Any:
    return [a, b]


def open_ended(a: int, **more: int) -> Any:
    return [a, more]


def odd_default(a: Any = plain) -> Any:
    return a is plain


@pytest.mark.parametrize(
    ("fn", "given", "value"),
    [
        (plain, {"a": 1}, [1, 2, 3]),
        (plain, {"c": 0, "a": 1}, [1, 2, 0]),
        (positional, {"a": 1, "b": 2}, [1, 2]),
        (open_ended, {"a": 1, "z": 2}, [1, {"z": 2}]),
        (odd_default, {}, True),
    ],
)
def test_an_input_becomes_arguments(fn: Any, given: dict[str, Any], value: Any) -> None:
    assert Agent("x", fn).bind(given)() == value


@pytest.mark.parametrize(
    ("fn", "given", "words"),
    [
        (plain, {}, "missing: a"),
        (plain, {"a": 1, "d": 1, "e": 1}, "unknown: d, e"),
        (positional, {"c": 1}, "missing: a, b; unknown: c"),
        (open_ended, {"z": 1}, "missing: a"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_runs(
    fn: Any, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(Invalid, match=words) as refused:
        Agent("x", fn).bind(given)
    assert "x takes " in refused.value.hint


def test_how_agents_are_described() -> None:
    assert Agent("x", plain).describe() == {
        "name": "x",
        "doc": "Adds up.",
        "params": [
            {"name": "a", "required": True},
            {"name": "b", "required": False, "default": 2},
            {"name": "c", "required": False, "default": 3},
        ],
        "open": False,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "x",
            "description": "Adds up.",
            "type": "object",
            "properties": {
                "a": {"type": "integer"},
                "b": {"type": "integer", "default": 2},
                "c": {"type": "integer", "default": 3},
            },
            "required": ["a"],
            "additionalProperties": False,
        },
    }
    assert Agent("x", odd_default).describe()["params"] == [{"name": "a", "required": False}]
