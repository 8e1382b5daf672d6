"""Values on their way out of the agent: JSON, with bytes as {"$bytes": base64}.

A value that is recorded comes back as what JSON makes of it (a tuple is a list, a dict's keys are
strings), and it does so at once, not only when it is replayed: `unpack(pack(value))` is what the
agent gets in either case, of a step what `torpor.sdk.results` makes of that. Whatever leaves the
agent is written here: results of runs and steps, what is logged, emitted, shown with a wait or
given to a child. Beyond JSON these are written, as `torpor.sdk.parameters` reads them: see
`_WRITTEN`. What cannot be is refused, saying why; so is what no door takes
(`torpor.core.jsonvalues`).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import json
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import PurePath
from typing import Any

from torpor.core import jsonvalues

_BYTES = "$bytes"


class NotJson(TypeError):
    """A value that cannot be recorded."""


def pack(value: Any) -> Any:
    """`value` as plain JSON values. Raises NotJson naming what does not fit."""
    return json.loads(written(value))


def written(value: Any) -> str:
    """`value` as JSON text. Raises NotJson."""
    try:
        text = _written(value)
        jsonvalues.check(text)
    except NotJson:
        raise
    except RecursionError:
        raise NotJson(f"it {jsonvalues.too_deep()}") from None
    except (TypeError, ValueError) as error:
        raise NotJson(_words(error)) from None
    _check_own(value)
    return text


def _written(value: Any) -> str:
    try:
        return _encode(value)
    except NotJson:
        raise
    except TypeError as error:
        if "keys must be" not in str(error):  # the value's own code failed
            raise
    return _encode(_keyed(value, 0))


def _words(error: Exception) -> str:
    for known_text, problem in _PROBLEMS.items():
        if known_text in str(error):
            return problem
    return f"it {error}" if str(error).startswith(("is ", "holds ")) else str(error)


# What the library says, in words that say what to do.
_PROBLEMS = {
    "Circular reference": "it contains itself",
    "integer string conversion": f"it {jsonvalues.TOO_LONG}",
    "Out of range float": "NaN and infinity are no JSON; return finite numbers",
}


def unpack(packed: Any) -> Any:
    """A fresh copy of the value that `packed` stands for."""
    if isinstance(packed, list):
        return [unpack(item) for item in packed]
    if isinstance(packed, dict):
        if (content := _content(packed)) is not None:
            return content
        return {key: unpack(item) for key, item in packed.items()}
    return packed


def _content(packed: Mapping[str, Any]) -> bytes | None:
    """The bytes that `packed` stands for. What only looks so came from outside, and is a dict."""
    if len(packed) == 1 and isinstance(text := packed.get(_BYTES), str):
        try:
            return base64.b64decode(text, validate=True)
        except ValueError:
            return None
    return None


# ---- what JSON has no word for ----


def _duration(value: datetime.timedelta) -> str:
    """As ISO 8601 has it: P1DT2H3M4.5S. Exact: a timedelta is a whole number of microseconds."""
    left = abs(value) // datetime.timedelta(microseconds=1)
    minutes, micros = divmod(left, 60 * 10**6)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    seconds = f"{micros // 10**6}.{micros % 10**6:06}".rstrip("0").rstrip(".")
    date = f"{days}D" if days else ""
    parts = ((hours, "H"), (minutes, "M"), (seconds, "S"))
    time = "".join(f"{number}{unit}" for number, unit in parts if str(number) != "0")
    sign = "-" if value < datetime.timedelta() else ""
    return f"{sign}P{date}T{time}" if time else f"{sign}P{date or 'T0S'}"


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _sorted(value: set[Any] | frozenset[Any]) -> list[Any]:
    """In an order that is the same in every process."""
    return sorted(value, key=_encode)


# What is written, and how; the first that a value is an instance of.
_WRITTEN: tuple[tuple[tuple[type, ...], Callable[[Any], Any]], ...] = (
    ((bytes, bytearray, memoryview), lambda v: {_BYTES: base64.b64encode(bytes(v)).decode()}),
    ((Enum,), lambda v: v.value),
    ((datetime.date, datetime.time), lambda v: v.isoformat()),  # and datetimes, which are dates
    ((datetime.timedelta,), _duration),
    ((decimal.Decimal, uuid.UUID, PurePath), str),
    ((set, frozenset), _sorted),
    ((deque,), list),
    ((Mapping,), dict),
)


def _default(value: Any) -> Any:
    for types, write in _WRITTEN:
        if isinstance(value, types):
            return write(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    # A model of pydantic's, which is the agent's: nothing is imported for it.
    if hasattr(type(value), "__pydantic_serializer__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=True)  # as it is read
    raise NotJson(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} is not JSON; "
        "return text, numbers, lists and dicts (or bytes, dates, dataclasses, …)"
    )


def _keyed(value: Any, depth: int) -> Any:
    """With keys that JSON has no word for as they are written as values."""
    if depth > jsonvalues.DEPTH_MAX:
        raise NotJson(f"it {jsonvalues.too_deep()}")
    if isinstance(value, dict):
        return {_key(key): _keyed(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_keyed(item, depth + 1) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return _keyed(_default(value), depth + 1)


def _key(key: Any) -> Any:
    if key is None or isinstance(key, (str, int, float)):
        return key
    try:
        plain = _default(key)
    except NotJson:
        plain = None
    if not isinstance(plain, (str, int, float)):
        raise NotJson(f"a dict's keys must be text or numbers, not {type(key).__qualname__}")
    return plain


# ---- checks ----


def _check_own(value: Any) -> None:
    """What JSON would make something else of."""
    level = jsonvalues.containers([value])
    for _ in range(jsonvalues.DEPTH_MAX):
        for each in level:
            if not isinstance(each, dict):
                continue
            if len(each) == 1 and isinstance(each.get(_BYTES), str) and _content(each) is not None:
                raise NotJson(f"a dict whose only key is {_BYTES!r} stands for bytes: return those")
            if each and set(map(type, each)) != {str}:
                _check_keys(each)
        level = jsonvalues.containers(item for each in level for item in jsonvalues.within(each))


def _check_keys(of: dict[Any, Any]) -> None:
    texts = json.loads(_encode({_key(key): None for key in of}))
    if len(texts) != len(of):
        raise NotJson("two keys of a dict are the same as text: JSON would keep one of them")


# Made once: making one takes as long as using it.
_encode = json.JSONEncoder(default=_default, allow_nan=False).encode
