"""A form in the terminal: its fields in words, and filled in line by line. No I/O.

The fields are those of `torpor.web.forms`, as on a page: what a schema asks of people is drawn
from it once. A choice is typed by its number or its name, several with commas between them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torpor.web import forms
from torpor.web.forms import Field
from torpor.web.words import line

_YES, _NO = ("y", "yes", "true"), ("n", "no", "false")
_KINDS = {
    "long": "text",
    "yesno": "yes or no",
    "json": "JSON",
    "date": "date, YYYY-MM-DD",
    "time": "time, HH:MM:SS+00:00",
    "email": "email",
    "url": "URL",
    "integer": "a whole number",
    "number": "a number",
}
_OPTIONS_MAX = 20


def expected(schema: Mapping[str, Any] | None) -> list[str]:
    """What an answer has to look like, a line a field; empty where anything is taken."""
    if schema is None:
        return []
    form = forms.form(schema)
    if form.kind == "json":
        return [f"JSON that fits {line(json.dumps(schema, ensure_ascii=False))}"]
    return [f"{_called(each)}: {_words(each)}" for each in forms.leaves(form)]


def _called(field: Field) -> str:
    return line(".".join(field.path) or field.label, 60)


def _words(field: Field) -> str:
    about = [field.description] if field.description else []
    about += [] if field.required else ["optional"]
    if field.initial is not None:
        about.append(f"by default {json.dumps(field.initial, ensure_ascii=False)}")
    return line(_kind(field) + (f" ({'; '.join(about)})" if about else ""))


def _kind(field: Field) -> str:
    match field.kind:
        case "const":
            return json.dumps(field.value, ensure_ascii=False)
        case "choice" | "choices":
            options = enumerate(field.options[:_OPTIONS_MAX], start=1)
            names = [f"{n} {called}" for n, (_, called) in options]
            several = "some of " if field.kind == "choices" else ""
            return several + ", ".join(names) + (", …" if field.options[_OPTIONS_MAX:] else "")
        case "number":
            return _KINDS[field.each]
        case "lines":
            return f"{_KINDS.get(field.each, 'text')}, several with commas between them"
        case "text":
            return _KINDS.get(field.input, "text")
    return _KINDS[field.kind]


class Filling:
    """A form that is being filled in."""

    def __init__(self, form: Field) -> None:
        self._form = form
        self._fields = [each for each in forms.leaves(form) if each.kind != "const"]
        self._typed = forms.typed_first(form)
        self._shown: dict[str, str] = {}
        self._at = 0

    @property
    def filled(self) -> list[str]:
        """The fields before this one, as they were typed."""
        before = self._fields[: self._at]
        return [f"{_called(each)}: {self._shown.get(each.name, '')}" for each in before]

    @property
    def label(self) -> str:
        """What is to be typed now."""
        field = self._fields[self._at]
        return f"{_called(field)}, {_words(field)}"

    def take(self, text: str) -> str | None:
        """Fill the field with a line, and go on to the next. Why not, if it does not fit."""
        field = self._fields[self._at]
        if not text.strip() and field.initial is None:
            self._typed.pop(field.name, None)
            if field.required:
                return f"{_called(field)} is required"
        elif text.strip():
            values = _read(field, text.strip())
            if isinstance(values, str):
                return values
            self._typed[field.name] = values
            _, wrong = forms.answer(field, self._typed)
            if wrong:
                return str(wrong[0])
        self._shown[field.name] = text.strip()
        self._at += 1
        return None

    def go_back(self) -> None:
        self._at = max(0, self._at - 1)

    @property
    def done(self) -> bool:
        return self._at == len(self._fields)

    def answer(self) -> tuple[Any, str]:
        """The answer, or what is wrong with it; the form begins anew then."""
        value, wrong = forms.answer(self._form, self._typed)
        self._at = 0
        return value, "; ".join(map(str, wrong))


def _read(field: Field, text: str) -> list[str] | str:
    """What a page's form would send for the line; or why there is nothing like it."""
    match field.kind:
        case "yesno":
            given = text.lower()
            if given in (*_YES, *_NO):
                return [json.dumps(given in _YES)]
            return f"{text!r} is neither yes nor no"
        case "choice":
            return _option(field, text)
        case "choices":
            found = [_option(field, part.strip()) for part in text.split(",")]
            wrong = [each for each in found if isinstance(each, str)]
            return wrong[0] if wrong else [value for each in found for value in each]
        case "lines":
            return ["\n".join(part.strip() for part in text.split(","))]
    return [text]


def _option(field: Field, text: str) -> list[str] | str:
    by_name = {called.casefold(): value for value, called in field.options}
    if text.casefold() in by_name:
        return [by_name[text.casefold()]]
    if text.isascii() and text.isdecimal() and 0 < int(text) <= len(field.options):
        return [field.options[int(text) - 1][0]]
    return f"{text!r} is none of {_kind(field).removeprefix('some of ')}"
