"""Forms from schemas, and answers from forms."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Part
from torpor.policy.answers import check_answer, check_schema
from torpor.web import forms
from torpor.web.forms import Field, answer, by_field, form, leaves

OPTIONAL = {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Age"}


@pytest.mark.parametrize(
    ("schema", "kind", "typed", "value"),
    [
        ({"type": "string"}, "text", "hi there", "hi there"),
        ({"type": "string", "format": "date"}, "text", "2026-01-02", "2026-01-02"),
        ({"type": "string", "maxLength": 5000}, "long", "a\r\nb", "a\nb"),
        ({"type": "integer"}, "number", " 7 ", 7),
        ({"type": "number"}, "number", "7.5", 7.5),
        ({"type": "number"}, "number", "1e3", 1000.0),
        ({"type": "boolean"}, "yesno", "false", False),
        ({"enum": ["a", 1, None, True]}, "choice", "1", 1),
        ({"oneOf": [{"const": "a", "title": "A"}, {"const": "b"}]}, "choice", '"b"', "b"),
        ({"type": "array", "items": {"type": "string"}}, "lines", " a \n\n b", ["a", "b"]),
        ({"type": "array", "items": {"type": "integer"}}, "lines", "1\n2", [1, 2]),
        ({"type": "array", "items": {"type": "object"}}, "json", '[{"a": 1}]', [{"a": 1}]),
        ({"type": "object"}, "json", '{"a": 1}', {"a": 1}),
        ({"type": ["string", "null"]}, "text", "x", "x"),
        (OPTIONAL, "number", "3", 3),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}, "number", "4", 4),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}]}, "json", '"x"', "x"),
        ({}, "json", "null", None),
    ],
)
def test_a_field_for_each_kind_of_value(
    schema: dict[str, Any], kind: str, typed: str, value: Any
) -> None:
    check_schema(schema)
    made = form(schema)
    assert made.kind == kind
    assert answer(made, {"a": [typed]}) == (value, [])
    check_answer(schema, value)


NESTED = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"enum": ["x", "y"]}},
        "home": {
            "type": "object",
            "properties": {"zip~/": {"type": "string"}, "floor": {"type": "integer"}},
            "required": ["zip~/"],
        },
        "work": {"type": "object", "properties": {"floor": {"type": "integer", "default": 2}}},
        "version": {"const": 3},
    },
    "required": ["name", "home", "version"],
}


def test_groups_of_fields_and_what_is_left_empty() -> None:
    made = form(NESTED)
    names = [each.name for each in leaves(made)]
    assert names == [
        "a/name",
        "a/tags",
        "a/home/zip~0~1",
        "a/home/floor",
        "a/work/floor",
        "a/version",
    ]
    assert forms.typed_first(made) == {"a/work/floor": ["2"]}
    empty, wrong = answer(made, {"a/name": ["  "]})
    assert (empty, wrong) == ({"home": {}, "version": 3}, [])
    typed = {
        "a/name": ["n"],
        "a/tags": ['"x"', '"y"'],
        "a/home/zip~0~1": ["1"],
        "a/work/floor": [""],
    }
    given, wrong = answer(made, typed)
    assert given == {"name": "n", "tags": ["x", "y"], "home": {"zip~/": "1"}, "version": 3}
    check_answer(NESTED, given)
    _, wrong = answer(made, typed | {"a/work/floor": ["two"], "a/tags": ["x"]})
    at, nowhere = by_field(made, [*wrong, Part(("home",), "odd"), Part(("tags", 1), "bad")])
    assert at == {
        "a/tags": ["is not valid JSON: Expecting value: line 1 column 1 (char 0)", "[1]: bad"],
        "a/work/floor": ["'two' is not a number"],
    }
    assert nowhere == ["home: odd"]


def test_without_a_schema_text_is_text_and_json_is_json() -> None:
    made = form(None)
    assert answer(made, {"a": ["[1]"]}, free=True) == ([1], [])
    assert answer(made, {"a": ["oh [1"]}, free=True) == ("oh [1", [])
    assert answer(made, {}, free=True) == (None, [])
    _, wrong = answer(form({"type": "object"}), {"a": ["{"]})
    assert [part.path for part in wrong] == [()]
    assert answer(form({"type": "integer"}), {})[1] == [Part((), "is required")]
    assert answer(form({"type": "integer"}), {"a": ["1e999"]})[1]


def test_a_form_that_would_be_too_large_is_one_field() -> None:
    many = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(500)}}
    assert form(many).kind == "json"
    tree: dict[str, Any] = {"type": "object", "properties": {"in": {"$ref": "#"}}}
    assert [each.kind for each in leaves(form(tree))] == ["json"]


SIMPLE = st.sampled_from(
    [
        {"type": "string"},
        {"type": "integer"},
        {"type": "number"},
        {"type": "boolean"},
        {"enum": ["a", "b"]},
        {"type": "array", "items": {"type": "string"}},
        {"type": "array", "items": {"enum": [1, 2]}},
        {"type": ["string", "null"]},
        {"type": "object"},
    ]
)
SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.builds(
        lambda of, needed: {"type": "object", "properties": of, "required": sorted(of)[:needed]},
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
        st.integers(0, 3),
    ),
    max_leaves=8,
)
WORDS = {"number": "1", "yesno": "true", "choice": '"a"', "choices": "2", "json": "{}"}


@given(SCHEMAS)
def test_a_form_that_is_filled_in_gives_an_answer_that_fits(schema: dict[str, Any]) -> None:
    made = form(schema)
    names = [each.name for each in leaves(made)]
    assert len(set(names)) == len(names)
    typed = {each.name: [WORDS.get(each.kind, "x")] for each in leaves(made)}
    value, wrong = answer(made, typed)
    assert not wrong
    check_answer(schema, value)
    json.dumps(value)


@given(SCHEMAS, st.dictionaries(st.text(max_size=8), st.lists(st.text(max_size=8), max_size=2)))
def test_whatever_is_sent_gives_a_value_or_says_what_is_wrong(
    schema: dict[str, Any], typed: dict[str, list[str]]
) -> None:
    made: Field = form(schema)
    typed |= {each.name: typed.get(each.name, ["-"]) for each in leaves(made)}
    value, wrong = answer(made, typed)
    if not wrong:
        json.dumps(value)
