"""What a field of a message may be.

A check is a function from a value to "" (fine) or the rest of the sentence that names the
problem, such as " must be true or false" or "[3].op must be a string". Nested problems compose
by putting the path in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

COUNT_MAX = 2**53 - 1  # the largest integer that every JSON reader keeps exact

Check = Callable[[Any], str]


def anything(value: Any) -> str:
    return ""


def flag(value: Any) -> str:
    return "" if value is True or value is False else " must be true or false"


def text(length_max: int, length_min: int = 0) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and length_min <= len(value) <= length_max:
            return ""
        return f" must be a string of {length_min} to {length_max} characters"

    return check


def one_of(*values: str) -> Check:
    def check(value: Any) -> str:
        return "" if value in values else f" must be one of {', '.join(values)}"

    return check


def hexadecimal(digits: int) -> Check:
    def check(value: Any) -> str:
        if isinstance(value, str) and len(value) == digits and not value.strip("0123456789abcdef"):
            return ""
        return f" must be {digits} lowercase hexadecimal digits"

    return check


def integer(low: int, high: int = COUNT_MAX) -> Check:
    def check(value: Any) -> str:
        if type(value) is int and low <= value <= high:
            return ""
        return f" must be an integer from {low} to {high}"

    return check


def number(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        if type(value) in (int, float) and low <= value <= high:
            return ""
        return f" must be a number from {low:g} to {high:g}"

    return check


def or_null(inner: Check) -> Check:
    def check(value: Any) -> str:
        if value is None:
            return ""
        problem = inner(value)
        return problem and f"{problem}, or null"

    return check


def list_of(inner: Check, count_max: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, list) or len(value) > count_max:
            return f" must be a list of at most {count_max} items"
        for place, item in enumerate(value):
            if problem := inner(item):
                return f"[{place}]{problem}"
        return ""

    return check


def object_of(inner: Check, count_max: int) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, dict) or len(value) > count_max:
            return f" must be an object of at most {count_max} keys"
        for key, item in value.items():
            if problem := inner(item):
                return f"[{shown(key)}]{problem}"
        return ""

    return check


def record(fields: Mapping[str, Check], also: Check = anything) -> Check:
    """An object with exactly these keys; one written "key?" may be absent. `also` sees the whole
    object once its fields are right."""
    checks = {key.rstrip("?"): check for key, check in fields.items()}
    required = [key for key in fields if not key.endswith("?")]

    def check(value: Any) -> str:
        if not isinstance(value, dict):
            return " must be an object"
        for key in required:
            if key not in value:
                return f" lacks the key {key!r}"
        for key, item in value.items():
            inner = checks.get(key)
            if inner is None:
                return f" has the unknown key {shown(key)}"
            if problem := inner(item):
                return f".{key}{problem}"
        return also(value)

    return check


def shown(value: Any) -> str:
    """A foreign value for an error message: short whatever it is."""
    text = repr(value) if not isinstance(value, str) else ascii(value[:60])
    return text if len(text) <= 60 else text[:60] + "…"
