"""JSON values: what one has to be to get through every door, and come back exactly as it was.

A value that is taken anywhere (an input, an answer, an event, a result, what is logged or shown)
goes on through all of torpor: the log, the link, a replay, exports, other people's programs. So
there is one set of limits, checked wherever values come in (rule 13), and what is behind the doors
takes more than they let in.

Refused: what is no JSON (NaN, infinity, halves of surrogate pairs), and what other readers break
on: deep nesting, integers of thousands of digits (Python itself refuses to read those).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

DEPTH_MAX = 64  # levels of lists and objects
ENTRY_DEPTH_MAX = DEPTH_MAX + 8  # of what values are wrapped in: an entry of the log, a body
MESSAGE_DEPTH_MAX = DEPTH_MAX + 16  # of what these are wrapped in: a journal in a message
ENTRY_BYTES_MAX = 1024 * 1024  # of one entry of the log; so an input, an answer, a result
INT_DIGITS_MAX = 4300  # as Python's own limit is, which a program may switch off

_NO_NUMBER = "holds NaN, infinity or a number too large for JSON readers"
_NO_TEXT = "holds half a surrogate pair, which is no text"
_CIRCULAR = "contains itself"
TOO_LONG = f"holds an integer of more than {INT_DIGITS_MAX:,} digits"

_LONG = re.compile(rf"\d{{{INT_DIGITS_MAX + 1}}}")


class Refused(ValueError):
    """JSON by its syntax, of a value that is not taken. Its words are the rest of a sentence."""


def write(value: Any, depth_max: int = DEPTH_MAX) -> str:
    """`value`, made of what `json` makes, as JSON in ASCII. Raises Refused."""
    try:
        text = _ENCODER.encode(value)
    except ValueError as error:
        raise Refused(_words(error)) from None
    except RecursionError:
        raise Refused(too_deep(depth_max)) from None
    except TypeError as error:
        raise Refused(f"is not JSON: {error}") from None
    check(text, depth_max)
    return text


def check(text: str, depth_max: int = DEPTH_MAX) -> None:
    """As `write`, of a value that was written as `text`, in ASCII."""
    opened = text.count("[") + text.count("{")
    if opened > depth_max and deeper_than(depth_max, json.loads(text), opened):
        raise Refused(too_deep(depth_max))
    if "\\ud" in text and _has_half_pair(text):
        raise Refused(_NO_TEXT)
    if len(text) > INT_DIGITS_MAX and _LONG.search(text) and _has_long_int(text):
        raise Refused(TOO_LONG)


def fault(value: Any, depth_max: int = DEPTH_MAX) -> str | None:
    """What keeps `value` from being taken, as the rest of a sentence; None if nothing does."""
    try:
        write(value, depth_max)
    except Refused as error:
        return str(error)
    return None


def too_deep(depth_max: int = DEPTH_MAX) -> str:
    return f"is nested more than {depth_max} deep"


def read(text: str | bytes) -> Any:
    """The value that is written as `text`. Raises ValueError, saying what is wrong: Refused, or
    another if it is no JSON."""
    try:
        value = _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise Refused(too_deep()) from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: {error.reason} at byte {error.start}") from None
    write(value)
    return value


def read_utf8(data: bytes, read: Callable[[str], Any] = json.loads) -> Any:
    """What `read` makes of the text in `data`, refused only if that has half of a surrogate pair.
    Raises ValueError, RecursionError."""
    value = read(data.decode())
    if b"\\ud" in data.lower():  # in UTF-8 only an escape can bring in half a pair
        _UNICODE.encode(value).encode()
    return value


def deeper_than(most: int, value: Any, opened: int) -> bool:
    """Whether `value` has more than `most` levels of lists and objects. It has no more than its
    text has opening brackets, `opened`."""
    if opened <= most:
        return False  # nearly always
    level = containers([value])
    for _ in range(most):
        if not level:
            return False
        level = containers(item for each in level for item in within(each))
    return bool(level)


def containers(items: Iterable[Any]) -> list[Any]:
    """The lists and objects among `items`."""
    return [item for item in items if isinstance(item, (dict, list, tuple))]


def within(container: Any) -> Iterable[Any]:
    """What a list or an object holds."""
    return container.values() if isinstance(container, dict) else container


def _words(error: ValueError) -> str:
    """Of the library's."""
    if "Circular" in str(error):
        return _CIRCULAR
    return TOO_LONG if "integer string conversion" in str(error) else _NO_NUMBER


def _has_half_pair(text: str) -> bool:
    try:
        _UNICODE.encode(json.loads(text)).encode()
    except UnicodeEncodeError:
        return True
    return False


def _has_long_int(text: str) -> bool:
    try:
        _DECODER.decode(text)
    except ValueError:
        return True
    return False


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value - value != 0:  # 1e999 reads as infinity
        raise Refused(f"holds {text[:40]}, which is larger than a number can be")
    return value


def _int(text: str) -> int:
    if len(text) > INT_DIGITS_MAX + text.startswith("-"):
        raise Refused(TOO_LONG)
    return int(text)


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
_UNICODE = json.JSONEncoder(ensure_ascii=False)
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_float, parse_int=_int)
