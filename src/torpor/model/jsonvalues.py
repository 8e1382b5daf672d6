"""JSON values: what one has to be to get through every door, and come back exactly as it was.

A value that is taken anywhere (an input, an answer, an event, a result, what is logged or shown)
goes on through all of torpor: the log, the link, a replay, exports, other people's programs. So
there is one set of limits, checked wherever values come in (rule 13), and what is behind the doors
takes more than they let in: `torpor.wire.messages.DEPTH_MAX` has room for envelopes.

Refused: what is no JSON (NaN, infinity, halves of surrogate pairs), and what other readers break
on: deep nesting, integers of thousands of digits (Python itself refuses to read those).
"""

from __future__ import annotations

import json
import re
from typing import Any

DEPTH_MAX = 64  # levels of lists and objects
INT_DIGITS_MAX = 4300  # as Python's own limit is, which a program may switch off

NO_NUMBER = "holds NaN, infinity or a number too large for JSON readers"
NO_TEXT = "holds half a surrogate pair, which is no text"
TOO_DEEP = f"is nested more than {DEPTH_MAX} deep"
TOO_LONG = f"holds an integer of more than {INT_DIGITS_MAX:,} digits"

_LONG = re.compile(rf"\d{{{INT_DIGITS_MAX + 1}}}")


def fault(value: Any) -> str | None:
    """What keeps `value`, made of what `json` makes, from being taken, as the rest of a sentence;
    None if nothing does."""
    try:
        text = _ENCODER.encode(value)
        text.encode()
    except UnicodeEncodeError:
        return NO_TEXT
    except ValueError as error:
        return TOO_LONG if "digits" in str(error) else NO_NUMBER
    except RecursionError:
        return TOO_DEEP
    except TypeError as error:
        return f"is not JSON: {error}"
    if deeper_than(DEPTH_MAX, value, text.count("[") + text.count("{")):
        return TOO_DEEP
    return TOO_LONG if _LONG.search(text) and _has_long_int(text) else None


def read(text: str | bytes) -> Any:
    """The value that is written as `text`. Raises ValueError, saying what is wrong, for what is no
    JSON or would be refused as a value."""
    try:
        value = _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError(f"it {TOO_DEEP}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8: {error.reason} at byte {error.start}") from None
    if (wrong := fault(value)) is not None:
        raise ValueError(f"it {wrong}")
    return value


def deeper_than(most: int, value: Any, opened: int) -> bool:
    """Whether `value` has more than `most` levels of lists and objects. It has no more than its
    text has opening brackets, `opened`."""
    if opened <= most:
        return False  # nearly always
    level = [value]
    for _ in range(most):
        level = [
            item
            for parent in level
            if isinstance(parent, (dict, list, tuple))
            for item in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(item, (dict, list, tuple))
        ]
        if not level:
            return False
    return True


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
        raise ValueError(f"{text[:40]} is larger than a number can be")
    return value


def _int(text: str) -> int:
    if len(text) > INT_DIGITS_MAX + text.startswith("-"):
        raise ValueError(f"an integer has more than {INT_DIGITS_MAX:,} digits")
    return int(text)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_float, parse_int=_int)
