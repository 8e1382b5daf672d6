"""Forms for waits, and what was typed into them. Pure.

A form is what the wait's schema asks for (`torpor.policy.forms`), under names of its own: a page
may have several. Whether an answer fits is the service's to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torpor.model import jsonvalues
from torpor.model.errors import Invalid
from torpor.policy import forms
from torpor.policy.forms import Field

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


def value(text: str) -> Any:
    """What somebody typed: JSON if it is some, else text. Nothing is null. Raises Invalid."""
    if not text.strip():
        return None
    try:
        return jsonvalues.read(text)
    except jsonvalues.Refused as error:
        raise Invalid(f"what was typed {error}") from error
    except ValueError:
        return text


def _within(field: Field, wait: str) -> Field:
    told = {each.name: getattr(field, each.name) for each in fields(field)}
    told["fields"] = tuple(_within(each, wait) for each in field.fields)
    return Within(**told, wait=wait)
