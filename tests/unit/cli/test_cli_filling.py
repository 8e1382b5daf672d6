"""Forms in the terminal: what a schema asks for in words, and answers typed line by line."""

from __future__ import annotations

from typing import Any

import pytest

from torpor.cli.filling import expected
from torpor.cli.question import Answer, Question

INVOICE = {
    "type": "object",
    "properties": {
        "kind": {"const": "invoice"},
        "id": {"type": "integer", "description": "of the invoice"},
        "due": {"type": "string", "format": "date"},
        "colour": {"enum": ["red", "blue"]},
        "paid": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "to": {"type": "object", "properties": {"city": {"type": "string", "default": "Oslo"}}},
    },
    "required": ["kind", "id", "due", "paid"],
}


def question(schema: Any) -> Question:
    wait = {
        "prompt": "Fix it",
        "op": "wait:fix#1",
        "data": None,
        "schema": schema,
        "approve": False,
        "run": "run_1",
    }
    return Question(wait)


def type_lines(asked: Question, *lines: str) -> Any:
    decided = None
    for line in lines:
        for key in f"{line}\r":
            decided = asked.key(key)
    return decided


def test_what_an_answer_has_to_look_like() -> None:
    assert expected(INVOICE) == [
        'kind: "invoice"',
        "id: a whole number (of the invoice)",
        "due: date, YYYY-MM-DD",
        "colour: 1 red, 2 blue (optional)",
        "paid: yes or no",
        "tags: text, several with commas between them (optional)",
        'to.city: text (optional; by default "Oslo")',
    ]
    assert expected(None) == []
    (line,) = expected({"anyOf": [{"type": "object"}, {"type": "array"}]})
    assert line.startswith("JSON that fits ")


def test_a_form_is_filled_in_line_by_line() -> None:
    decided = type_lines(question(INVOICE), "7", "2026-12-01", "2", "yes", "a, b", "Bergen")
    assert decided == Answer(
        data={
            "kind": "invoice",
            "id": 7,
            "due": "2026-12-01",
            "colour": "blue",
            "paid": True,
            "tags": ["a", "b"],
            "to": {"city": "Bergen"},
        }
    )


def test_what_is_left_empty_is_left_out_or_the_default() -> None:
    decided = type_lines(question(INVOICE), "7", "2026-12-01", "", "n", "", "")
    assert decided.data == {
        "kind": "invoice",
        "id": 7,
        "due": "2026-12-01",
        "paid": False,
        "to": {"city": "Oslo"},
    }


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["x"], "not a number"),
        ([""], "id is required"),
        (["1", "2026-12-01", "green"], "'green' is none of 1 red, 2 blue"),
        (["1", "2026-12-01", "", "maybe"], "'maybe' is neither yes nor no"),
    ],
)
def test_what_does_not_fit_is_asked_again(lines: list[str], problem: str) -> None:
    asked = question(INVOICE)
    assert type_lines(asked, *lines) is None
    assert problem in asked.problem
    asked.key("\x15")
    assert type_lines(asked, "1") is None or asked.problem  # the field is still the one asked for


def test_going_back_changes_an_answer() -> None:
    asked = question({"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}})
    type_lines(asked, "1")
    asked.key("\x1b")
    assert type_lines(asked, "2", "[3]") == Answer(data={"a": 2, "b": [3]})


def test_one_value_is_a_form_of_one_line() -> None:
    assert type_lines(question({"enum": ["low", "high"]}), "high") == Answer(data="high")
    assert type_lines(question({"type": "string"}), "5") == Answer(data="5")
