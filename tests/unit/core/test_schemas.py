from __future__ import annotations

from typing import Any

import pytest

from torpor.core.jsonvalues import Refused
from torpor.core.schemas import from_text, words

DUE = {"type": "string", "format": "date"}
ROOT: dict[str, Any] = {"$defs": {"Due": DUE, "Self": {"$ref": "#/$defs/Self"}}}
BOOL, INT, TEXT = {"type": "boolean"}, {"type": "integer"}, {"type": "string"}
MAYBE = {"anyOf": [INT, {"type": "null"}]}


@pytest.mark.parametrize(
    ("text", "schema", "value"),
    [
        ("5", None, 5),
        ("x", None, "x"),
        ("5", INT, 5),
        ("abc", INT, "abc"),
        ("5", TEXT, "5"),
        ("null", TEXT, "null"),
        ('"5"', TEXT, "5"),
        ('"', TEXT, '"'),
        ('{"a": 1}', TEXT, '{"a": 1}'),
        ("False", BOOL, False),
        ("no", BOOL, False),
        ("YES", BOOL, True),
        ("perhaps", BOOL, "perhaps"),
        ("0", BOOL, 0),
        ("null", MAYBE, None),
        ("7", MAYBE, 7),
        ("1.5", {"type": "number"}, 1.5),
        ("1.10", {"type": ["string", "number"], "format": "decimal"}, "1.10"),
        ("5", {"enum": ["5", 6]}, "5"),
        ("6", {"enum": ["5", 6]}, 6),
        ("a", {"enum": ["a", "b"]}, "a"),
        ("2026-11-27", {"$ref": "#/$defs/Due"}, "2026-11-27"),
        ("[1]", {"type": "array"}, [1]),
        ("[1]", {"anyOf": [TEXT, {"type": "array"}]}, [1]),
        ("x", {"$ref": "#/$defs/Self"}, "x"),
    ],
)
def test_a_text_stands_for_what_is_asked_for(text: str, schema: Any, value: Any) -> None:
    found = from_text(text, schema, ROOT)
    assert (found, type(found)) == (value, type(value))


def test_json_that_is_not_taken_is_refused_where_json_is_asked_for() -> None:
    for schema in (None, INT):
        with pytest.raises(Refused):
            from_text("9" * 5000, schema, ROOT)
    assert from_text("9" * 5000, TEXT, ROOT) == "9" * 5000


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        (None, ""),
        ({}, ""),
        (INT, "a whole number"),
        (MAYBE, "a whole number or null"),
        ({"$ref": "#/$defs/Due"}, "a date, YYYY-MM-DD"),
        ({"enum": ["a", 1, None]}, "a | 1 | null"),
        ({"type": "array", "items": BOOL}, "a list: true or false"),
        ({"type": "object", "properties": {"a": INT, "b": {}}, "required": ["a"]}, "{a, b?}"),
        ({"anyOf": [INT, {}]}, ""),
        ({"$ref": "#/$defs/Self"}, ""),
        ({"type": ["string", "number"]}, "text or a number"),
    ],
)
def test_a_schema_in_words(schema: Any, said: str) -> None:
    assert words(schema, ROOT) == said
