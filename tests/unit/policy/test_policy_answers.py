"""Answers against schemas: what the library says, and what is kept from it."""

from __future__ import annotations

import time
from typing import Any

import pytest

from torpor.core.errors import Invalid
from torpor.policy import answers
from torpor.policy.answers import check_answer, check_schema, problems

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z]"},
        "born": {"type": "string", "format": "date"},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/pet"}, "uniqueItems": True},
    },
    "required": ["name"],
    "additionalProperties": False,
    "$defs": {"pet": {"type": "object", "properties": {"legs": {"type": "integer"}}}},
}


def test_an_answer_that_fits_is_fine_and_one_that_does_not_is_told_where() -> None:
    check_schema(PERSON)
    check_answer(None, object())
    check_answer(PERSON, {"name": "Ana", "born": "2001-02-03", "pets": [{"legs": 4}, {"legs": 2}]})
    wrong = {"name": "ana", "born": "2001-02-30", "pets": [{"legs": "4"}, {}, {}], "more": 1}
    with pytest.raises(Invalid) as raised:
        check_answer(PERSON, wrong)
    assert [problem.path for problem in problems(PERSON, wrong)] == [
        (),
        ("born",),
        ("name",),
        ("pets",),
        ("pets", 0, "legs"),
    ]
    for said in (
        "('more' was unexpected)",
        "name: 'ana' does not match '^[A-Z]'",
        "born: '2001-02-30' is not a 'date'",
        "pets: has the same item more than once",
        "pets[0].legs: '4' is not of type 'integer'",
    ):
        assert said in raised.value.message
    assert len(str(problems({"type": "integer"}, "x" * 100_000))) < 500


def bomb(levels: int = 6, width: int = 30) -> dict[str, Any]:
    """Each part refers to the next so often: width to the power of levels in all."""
    parts = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * width} for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": parts | {f"d{levels}": {}}}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"type": "colour"}, "'colour' is not valid"),
        ({"properties": {"a": {"minLength": "x"}}}, "at /properties/a/minLength"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"$ref": "https://example.com/schema"}, "leads to nothing in it"),
        ({"items": {"$ref": "#/$defs/none"}}, "leads to nothing in it"),
        ({"$schema": "https://example.com/own"}, "is not known"),
        ({"pattern": "("}, "is not a regular expression"),
        ({"patternProperties": {"^a": {}}}, "patternProperties is not supported"),
        ({"description": "x" * 70_000}, "the limit is 65,536"),
        (bomb(), "takes longer than"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(Invalid, match=said):
        check_schema(schema)


def test_names_of_an_answers_parts_are_no_keywords() -> None:
    check_schema({"properties": {"patternProperties": {"type": "string"}, "$ref": {}}})
    check_schema({"enum": [{"$ref": "anything"}], "const": {"pattern": "("}})
    deep: dict[str, Any] = {}
    for _ in range(40):
        deep = {"items": deep}
    with pytest.raises(Invalid, match="nested more than 32 deep"):
        check_schema(deep)


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "string", "pattern": "^(a|aa)+$"}, "a" * 5000 + "b"),
        ({"items": bomb()["$defs"]["d0"]} | bomb(), [1]),
    ],
)
def test_an_answer_takes_no_longer_than_it_may(
    schema: dict[str, Any], answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LIMIT_S", 0.05)
    began = time.monotonic()
    with pytest.raises(Invalid, match="cannot be checked within"):
        check_answer(schema, answer)
    assert time.monotonic() - began < 5
