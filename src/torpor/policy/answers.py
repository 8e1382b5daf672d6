"""Whether an answer is what a wait asks for, by the wait's JSON Schema.

The library `jsonschema` decides. Schema and answer are both a stranger's (rule 13), and the host is
shared: so a schema is checked when its wait is made, and what could keep the host busy is refused
there or bounded. References stay within the schema; patterns are matched by the library `regex`,
which gives up in time where `re` would not, holding all of the process up; every keyword looks at
the clock. Refused are the keywords whose cost the library does not let us bound (`_UNSUPPORTED`).

`format` is asserted, where it needs no further library (date, time, email, …): who made a form of
a schema was promised that a date is one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from datetime import time as clock
from decimal import Decimal
from functools import cache, lru_cache, partial
from typing import Any, cast

import regex
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from torpor.core import durations, schemas
from torpor.core.errors import Invalid, Part

SCHEMA_BYTES_MAX = 64 * 1024
SCHEMA_DEPTH_MAX = 32
LIMIT_S = 1.0
PROBE_S = 0.1  # for all that a new schema is tried with
PROBLEMS_MAX = 20
_MESSAGE_MAX = 300

_UNSUPPORTED = frozenset(
    (
        "$dynamicRef",
        "$recursiveRef",
        "patternProperties",
        "unevaluatedItems",
        "unevaluatedProperties",
    )
)
_OF_NAMES = frozenset(("properties", "$defs", "definitions", "dependentSchemas"))
_DATA = frozenset(("enum", "const", "default", "examples"))
# Tried on each new schema: one that loops does so whatever it is given.
_PROBES: tuple[Any, ...] = (None, {}, [], "", 0)

_until: ContextVar[float] = ContextVar("until")


class _TooLong(Exception):
    """The limit of time is up."""


def check_schema(schema: Mapping[str, Any], probe_s: float = PROBE_S) -> None:
    """Raises Invalid unless answers can be checked against `schema`: it is tried for `probe_s`."""
    text = json.dumps(schema, sort_keys=True)
    if len(text) > SCHEMA_BYTES_MAX:
        raise Invalid(
            f"the schema has {len(text):,} bytes as JSON; the limit is {SCHEMA_BYTES_MAX:,}"
        )
    if (wrong := _wrong_with(text, probe_s)) is not None:
        raise Invalid(f"the schema cannot be used: {wrong}")


def problems(schema: Mapping[str, Any], answer: Any, what: str = "the answer") -> list[Part]:
    """What is wrong with `answer`, in the order of its parts; nothing, if it fits. Raises Invalid
    when that cannot be decided."""
    try:
        found = [
            Part(tuple(error.absolute_path), _message(error, schema))
            for error in _errors(schema, answer, LIMIT_S)
        ]
    except (_TooLong, TimeoutError) as error:
        raise Invalid(f"{what} cannot be checked within {LIMIT_S:g} s") from error
    except RecursionError as error:
        raise Invalid(f"{what} is nested too deeply to be checked") from error
    except Unresolvable as error:  # a part of the schema that is a schema of its own, by its $id
        raise Invalid(f"{what} cannot be checked: {error}"[:_MESSAGE_MAX]) from error
    return sorted(found, key=lambda problem: [str(part) for part in problem.path])[:PROBLEMS_MAX]


def check_answer(schema: Mapping[str, Any] | None, answer: Any) -> None:
    """Raises Invalid, saying what is wrong, unless `answer` fits `schema`."""
    if schema is not None and (found := problems(schema, answer)):
        raise Invalid(
            "the answer does not fit the question: " + "; ".join(map(str, found)),
            hint="Nothing was changed; answer again.",
            parts=found,
        )


@lru_cache(maxsize=256)
def _wrong_with(text: str, probe_s: float) -> str | None:
    schema = json.loads(text)
    try:
        if (wrong := _unusable(schema, schema, 0)) is not None:
            return wrong
        if (draft := _draft(schema)) is None:
            return f"$schema {str(schema['$schema'])[:100]!r} is not known"
        draft.check_schema(schema)
        for probe in _PROBES:
            for _ in _errors(schema, probe, probe_s):
                pass
    except SchemaError as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        return f"{_message(error)}{where and f' (at {where})'}"
    except RecursionError:
        return "it is nested too deeply, or refers to itself without end"
    except (_TooLong, TimeoutError):
        return f"it takes longer than {probe_s:g} s to apply"
    except regex.error as error:
        return f"one of its patterns is not a regular expression: {error}"
    return None


def _unusable(schema: Any, root: Any, depth: int) -> str | None:
    """What the library would not tell of, or not in time."""
    if depth > SCHEMA_DEPTH_MAX:
        return f"it is nested more than {SCHEMA_DEPTH_MAX} deep"
    if isinstance(schema, list):
        return next(filter(None, (_unusable(each, root, depth + 1) for each in schema)), None)
    if not isinstance(schema, dict):
        return None
    for key, value in schema.items():
        if key in _UNSUPPORTED:
            return f"{key} is not supported"
        if key == "$ref" and not _resolves(value, root):
            return f"$ref {str(value)[:100]!r} leads to nothing in it"
        if key == "pattern" and isinstance(value, str):
            regex.compile(value)
        inner = list(value.values()) if key in _OF_NAMES and isinstance(value, dict) else value
        if key not in _DATA and (wrong := _unusable(inner, root, depth + 1)) is not None:
            return wrong
    return None


def _resolves(reference: Any, root: Any) -> bool:
    """Only places of the schema itself are referred to: `#`, `#/$defs/person`."""
    return schemas.resolve(reference, root) is not None


def _draft(schema: Mapping[str, Any]) -> Any:
    """The library's validator class for it."""
    if "$schema" not in schema:
        return Draft202012Validator
    # Without a default it would give its newest one and a warning.
    return validators.validator_for(schema, default=cast(Any, None))


def _errors(schema: Mapping[str, Any], answer: Any, limit_s: float) -> Iterator[ValidationError]:
    checker_class = _bounded(_draft(schema))
    token = _until.set(time.thread_time() + limit_s)  # a busy host makes no schema worse
    try:
        checker = checker_class(schema, registry=Registry(), format_checker=_formats(checker_class))
        for count, error in enumerate(checker.iter_errors(answer)):
            if count == 5 * PROBLEMS_MAX:
                return
            yield error
    finally:
        _until.reset(token)


@cache
def _formats(checker_class: Any) -> FormatChecker:
    """What the library checks without further ones, and what agents' types are written as."""
    checker = FormatChecker(())
    checker.checkers = {**checker_class.FORMAT_CHECKER.checkers}
    for name, read in _READ.items():
        checker.checks(name, raises=(ValueError, ArithmeticError))(partial(_reads, read))
    return checker


def _reads(read: Callable[[str], Any], value: Any) -> bool:
    if isinstance(value, str):
        read(value)
    return True


_READ: dict[str, Callable[[str], Any]] = {
    "date-time": datetime.fromisoformat,
    "time": clock.fromisoformat,
    "duration": durations.timedelta_of,
    "decimal": Decimal,
}


@cache
def _bounded(checker_class: Any) -> Any:
    """The library's validator class with a limit of time."""
    ours = {
        **checker_class.VALIDATORS,
        **{key: each for key, each in _OURS.items() if key in checker_class.VALIDATORS},
    }
    extend: Callable[..., Any] = validators.extend
    return extend(checker_class, {name: _timed(check) for name, check in ours.items()})


def _timed(check: Callable[..., Any]) -> Callable[..., Any]:
    def timed(checker: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        if time.thread_time() > _until.get():
            raise _TooLong
        yield from check(checker, value, instance, schema) or ()

    return timed


def _pattern(checker: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if checker.is_type(instance, "string"):
        left_s = max(0.001, _until.get() - time.thread_time())
        if not regex.search(pattern, instance, timeout=left_s):
            yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _unique_items(
    checker: Any, wanted: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if wanted and checker.is_type(instance, "array"):
        written = [json.dumps(item, sort_keys=True) for item in instance]
        if len(set(written)) < len(written):
            yield ValidationError("has the same item more than once")


def _required(checker: Any, names: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if checker.is_type(instance, "object"):
        for name in names:
            if name not in instance:
                yield ValidationError("is required", path=(name,))


_OURS = {"pattern": _pattern, "uniqueItems": _unique_items, "required": _required}


def _message(error: ValidationError | SchemaError, root: Any = None) -> str:
    # The library's words begin with all of the value that they are about.
    text = error.message
    ours = root is not None and error.validator in ("anyOf", "oneOf")
    if ours and (fits := schemas.words(error.schema, root)):
        text = f"{error.instance!r} is not {fits}"
    return text if len(text) <= _MESSAGE_MAX else f"{text[:100]} … {text[-150:]}"
