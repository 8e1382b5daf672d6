"""Values on their way out of the agent: JSON, with bytes as {"$bytes": base64}; and digests.

A value that is recorded comes back as what JSON makes of it (a tuple is a list, a dict's keys are
strings), and it does so at once, not only when it is replayed: `unpack(pack(value))` is what the
agent gets in either case. What JSON cannot hold is refused with the place where it stands.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PREVIEW_BYTES_MAX = 32 * 1024


class NotJson(TypeError):
    """A value that cannot be recorded."""


def pack(value: Any) -> Any:
    """`value` as plain JSON values. Raises NotJson naming the type that does not fit."""
    return json.loads(written(value))


def written(value: Any) -> str:
    """`value` as JSON text. Raises NotJson."""
    return _written(value, _with_bytes)


def written_result(value: Any) -> str:
    """As `written`, with dataclasses as their fields: a run's result never comes back as an
    object."""
    return _written(value, _with_fields)


def _written(value: Any, write: Callable[[Any], str]) -> str:
    try:
        return write(value)
    except NotJson:
        raise
    except ValueError as error:
        wrong = "it contains itself" if "Circular" in str(error) else "NaN and infinity are no JSON"
        raise NotJson(f"{wrong}; return text, finite numbers, lists and dicts") from None
    except TypeError as error:
        raise NotJson(f"{error}; a dict's keys must be text or numbers") from None
    except RecursionError:
        raise NotJson("it is nested too deeply") from None


def unpack(packed: Any) -> Any:
    """A fresh copy of the value that `packed` stands for."""
    if isinstance(packed, list):
        return [unpack(item) for item in packed]
    if isinstance(packed, dict):
        if len(packed) == 1 and isinstance(packed.get("$bytes"), str):
            return base64.b64decode(packed["$bytes"])
        return {key: unpack(item) for key, item in packed.items()}
    return packed


def digest(*parts: Any) -> str:
    """32 hex digits that two calls share when their arguments are the same.

    What JSON cannot hold counts by its repr, without memory addresses: those differ from one
    process to the next while the arguments are the same."""
    try:
        text = _canonical(parts)
    except (TypeError, ValueError, RecursionError):  # keys of several types, cycles
        text = _ADDRESS.sub("", repr(parts))
    return hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()[:32]


def preview(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """A step's arguments for people who read the log: best effort, and never large."""
    try:
        text = _best_effort({"args": args, "kwargs": kwargs})
        text.encode()
    except (TypeError, ValueError, RecursionError):
        return {"omitted": "arguments that are not JSON"}
    if len(text) > _PREVIEW_BYTES_MAX:
        return {"omitted": f"{len(text):,} bytes of arguments"}
    shown: dict[str, Any] = json.loads(text)
    return shown


def _tagged(value: Any) -> dict[str, str]:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(bytes(value)).decode()}
    raise NotJson(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} is not JSON; "
        "return text, numbers, lists and dicts (or bytes)"
    )


def _fields(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return _tagged(value)


def _shown(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(_ADDRESS.sub("", repr(item)) for item in value)
    return _ADDRESS.sub("", repr(value))


# Made once: making one takes as long as using it.
_with_bytes = json.JSONEncoder(default=_tagged, allow_nan=False).encode
_with_fields = json.JSONEncoder(default=_fields, allow_nan=False).encode
_best_effort = json.JSONEncoder(default=_shown, allow_nan=False).encode
_canonical = json.JSONEncoder(default=_shown, sort_keys=True).encode
