"""Forms for waits and for agents' inputs, and what was typed into them. Pure.

A form is what the schema asks for (`torpor.web.forms`), under names of its own: a page
may have several. Whether an answer fits is the service's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torpor.core import jsonvalues
from torpor.core.errors import Invalid
from torpor.web import forms
from torpor.web.forms import Field

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Within(Field):
    """A field whose `id` no other wait's has."""

    wait: str = ""

    @property
    def id(self) -> str:
        return f"{self.wait}-{super().id}"


def form(wait: Object) -> Field:
    return _within(forms.form(wait["schema"]), str(wait["id"]))


def typed_first(of: Field) -> dict[str, list[str]]:
    return forms.typed_first(of)


def read(wait: Object, typed: Mapping[str, list[str]]) -> Any:
    """The answer that was typed. Raises Invalid."""
    free = wait["schema"] is None
    data, wrong = forms.answer(forms.form(wait["schema"]), typed, free=free)
    if wrong:
        raise Invalid("; ".join(map(str, wrong)), parts=wrong)
    return data


def read_input(agent: Object, typed: Mapping[str, list[str]]) -> dict[str, Any]:
    """The input that was typed into the form of an agent that described itself so: what is no JSON
    is text where anything is taken. Raises Invalid."""
    given, wrong = forms.answer(forms.form(agent.get("schema")), typed, free=True)
    if wrong:
        raise Invalid("; ".join(map(str, wrong)), parts=wrong)
    if not isinstance(given, dict):
        raise Invalid("the input must be a JSON object with the agent's arguments by name")
    return given


def value(text: str) -> Any:
    """What somebody typed: JSON if it is some, else text. Nothing is null. Raises Invalid."""
    if not text.strip():
        return None
    try:
        return jsonvalues.read(text)
    except jsonvalues.Refused as error:
        raise Invalid(f"your text {error}") from error
    except ValueError:
        return text


def _within(field: Field, wait: str) -> Field:
    values = {each.name: getattr(field, each.name) for each in fields(field)}
    values["fields"] = tuple(_within(each, wait) for each in field.fields)
    return Within(**values, wait=wait)
