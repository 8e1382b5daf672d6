"""What names a call: the digest and the hint of its arguments, and what of them people are shown.

Data counts by value: JSON values, bytes, tuples, sets, and the scalars of the standard library
(dates, Decimal, UUID, Path, Enum, …), in containers. Any other object, a framework's context, a
client, a dataclass, a model of pydantic's, counts by its type alone, since what is in it is not the
same in a replay (ids, times, addresses), and nobody can tell which of it is meant. What an object's
`__torpor_key__()` returns, data, counts too. A step's `key` says what counts instead of all this.

So two calls that differ only in such objects have one digest. Of those, the *hint* tells which is
which: a digest of what the objects hold, as far as that can be seen. It is a preference, and is
compared with nothing (`torpor.replay.journal`).

No object's repr is ever taken: it may hold what nobody wants in a log, or ask a database.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, time, timedelta, tzinfo
from enum import Enum
from functools import reduce
from itertools import chain
from numbers import Number
from pathlib import PurePath
from types import (
    BuiltinFunctionType,
    EllipsisType,
    FunctionType,
    MappingProxyType,
    ModuleType,
    NoneType,
)
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

from torpor.core import jsonvalues

KEY = "__torpor_key__"
Key: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], Any]

_TYPE = "$type"
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_PREVIEW_BYTES_MAX = 32 * 1024
_BYTES_SHOWN_MAX = 1024
_HINT_DIGITS = 16
_LOOKED_AT_MAX = 2_000  # parts of objects
_DEPTH_MAX = 8
_PICKLED_BYTES_MAX = 16 * 1024 * 1024

_SCALARS = (
    *(str, NoneType, EllipsisType, Number, bytes, bytearray, UUID, PurePath, range, re.Pattern),
    *(date, time, timedelta, tzinfo),
)
_MAPPINGS = (dict, MappingProxyType)
_SETS = (set, frozenset)
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_ORDERED = (*_MAPPINGS, *_VIEWS, list, tuple, deque)
_CONTAINERS = (*_ORDERED, *_SETS)


class Identity(NamedTuple):
    """32 hex digits that two calls share when their arguments are the same; and the hint, "" where
    all is data."""

    digest: str
    hint: str = ""


def identity(*parts: Any) -> Identity:
    try:
        text = _canonical(parts)
    except (TypeError, ValueError, RecursionError):  # keys of several types, cycles
        text = _text(parts)
    digest = hashlib.sha256(text.encode("ascii", "backslashreplace")).hexdigest()[:32]
    return Identity(digest, _hint(parts) if _TYPE in text else "")


def digest(*parts: Any) -> str:
    return identity(*parts).digest


def is_data(value: Any) -> bool:
    """Whether all of `value` counts by value."""
    return _consists_of(_CONTAINERS, value, set())


def key_of(fn: Callable[..., Any], key: Callable[..., Any] | str) -> Key:
    """What tells one call of `fn` from another, given its arguments: `step`'s `key`. Raises
    ValueError for names that `fn` has not; the result raises TypeError if its key is no data."""
    named = _by_name(fn, key) if isinstance(key, str) else lambda args, kw: key(*args, **kw)

    def checked(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = named(args, kwargs)
        if not is_data(found):
            raise TypeError(
                f"a step's key must be data, not {_name(type(found))}: use its id, for example"
            )
        return found

    return checked


def _by_name(fn: Callable[..., Any], names: str) -> Key:
    paths = [name.strip().split(".") for name in names.split(",")]
    signature = inspect.signature(fn)
    for first, *_ in paths:
        if first not in signature.parameters:
            raise ValueError(f"key={names!r}: the step has no parameter {first!r}")

    def read(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return [reduce(_part, rest, bound.arguments[first]) for first, *rest in paths]

    return read


def _part(value: Any, name: str) -> Any:
    return value[name] if isinstance(value, Mapping) else getattr(value, name)


def preview(args: tuple[Any, ...], kwargs: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A step's arguments for people who read the log, and `more` data: data as it is, of other
    objects the type; never large."""
    try:
        text = _best_effort({"args": args, "kwargs": kwargs, **more})
        shown: dict[str, Any] = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {"omitted": "arguments that are not JSON"}
    if len(text) > _PREVIEW_BYTES_MAX:
        return {"omitted": f"{len(text):,} bytes of arguments"}
    if jsonvalues.fault(shown) is not None:
        return {"omitted": "arguments that are not JSON"}
    return shown


class _Stand:
    """For an object, in a text of what is around it."""

    def __init__(self, value: Any) -> None:
        self._shown = stand(value)

    def __repr__(self) -> str:
        return f"<{self._shown}>"


def stand(value: Any) -> dict[str, Any]:
    """An object that is no data, as its type and its key."""
    shown = {_TYPE: _name(type(value))}
    return shown if (key := _declared(value)) is None else {**shown, "key": key}


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _declared(value: Any) -> Any:
    """What the object itself says that it is. Raises RuntimeError if that is no data."""
    declare = getattr(type(value), KEY, None)
    if declare is None:
        return None
    try:
        key = declare(value)
    except Exception as error:
        raise RuntimeError(f"{_name(type(value))}.{KEY}() failed: {error}") from error
    if not is_data(key):
        raise RuntimeError(f"{_name(type(value))}.{KEY}() must return data, not {_name(type(key))}")
    return key


def _scalar(value: Any) -> str | None:
    """As text, if it is one. Enums count by value, classes and functions by name."""
    if isinstance(value, Enum):
        if is_data(value.value):
            return _clean(repr(value))
        return f"<{_name(type(value))}.{value.name}>"
    if isinstance(value, type):
        return type.__repr__(value)
    if isinstance(value, (FunctionType, BuiltinFunctionType, ModuleType)):
        return f"<{type(value).__name__} {getattr(value, '__qualname__', value.__name__)}>"
    if isinstance(value, memoryview):
        return repr(bytes(value))
    if isinstance(value, _SCALARS) or type(value).__module__ == "ipaddress":
        return _clean(repr(value))
    return None


def _clean(text: str) -> str:
    """Memory addresses differ from one process to the next while the arguments are the same."""
    return _ADDRESS.sub("", text)


def _items(container: Any) -> Iterator[Any]:
    if isinstance(container, _MAPPINGS):
        return chain.from_iterable(container.items())
    return iter(container)


def _consists_of(containers: tuple[type, ...], value: Any, above: set[int]) -> bool:
    """Of these and scalars."""
    if not isinstance(value, containers):
        return not isinstance(value, _SETS) and _scalar(value) is not None
    if id(value) in above:
        return True
    above.add(id(value))
    whole = all(_consists_of(containers, item, above) for item in _items(value))
    above.discard(id(value))
    return whole


def _text(value: Any) -> str:
    try:
        ordered = _consists_of(_ORDERED, value, set())
        return _clean(repr(value if ordered else _reduced(value, ())))
    except RecursionError:
        return "nested too deeply"


def _reduced(value: Any, above: tuple[int, ...]) -> Any:
    """With stands for all objects, and lists for sets, whose order is not the same again."""
    if not isinstance(value, _CONTAINERS):
        return value if _scalar(value) is not None else _Stand(value)
    if id(value) in above:
        return ...
    above = (*above, id(value))
    if isinstance(value, _MAPPINGS):
        return [[_reduced(k, above), _reduced(v, above)] for k, v in value.items()]
    items = [_reduced(item, above) for item in _items(value)]
    return sorted(items, key=repr) if isinstance(value, _SETS) else items


def _shown(value: Any) -> Any:
    """For what JSON has no word for."""
    if isinstance(value, _SETS):
        return sorted(map(_text, value))
    if isinstance(value, _CONTAINERS):
        return _text(value)
    text = _scalar(value)
    return stand(value) if text is None else text


def _previewed(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)) and len(value) > _BYTES_SHOWN_MAX:
        return {_TYPE: _name(type(value)), "bytes": memoryview(value).nbytes}
    return _shown(value)


# Made once: making one takes as long as using it.
_best_effort = json.JSONEncoder(default=_previewed, allow_nan=False).encode
_canonical = json.JSONEncoder(default=_shown, sort_keys=True).encode


# ---- hints ----


def _hint(parts: Any) -> str:
    looked = _Look()
    try:
        looked.at(parts, 0)
    except Exception:  # the objects' own code, changed under our hands, …
        return ""
    return looked.hash.hexdigest()[:_HINT_DIGITS]


class _Look:
    """Goes through objects, in a bounded time."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self._seen: set[int] = set()
        self._left = _LOOKED_AT_MAX

    def at(self, value: Any, depth: int) -> None:
        self._left -= 1
        if (text := _scalar(value)) is not None:
            self._say(text)
            return
        self._say(_name(type(value)))
        if depth >= _DEPTH_MAX or self._left <= 0 or id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, _SETS):
            for text in sorted(map(_text, value)):
                self._say(text)
        elif isinstance(value, _CONTAINERS):
            for item in _items(value):
                self.at(item, depth + 1)
        elif (content := _content(value)) is not None:
            self.hash.update(content)
        elif fields := _fields(value):
            for name, item in fields:
                self._say(name)
                self.at(item, depth + 1)
        else:
            self._pickled(value)

    def _say(self, text: str) -> None:
        self.hash.update(text.encode("utf-8", "backslashreplace") + b"\0")

    def _pickled(self, value: Any) -> None:
        """What has its content where Python does not see it."""
        import pickle

        try:
            pickle.Pickler(_Sink(self.hash.update), 5).dump(value)
        except Exception:  # most of what holds a connection or a lock
            self._say("?")


class _Sink:
    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write, self._left = write, _PICKLED_BYTES_MAX

    def write(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise OverflowError
        self._write(data)


def _content(value: Any) -> memoryview | None:
    """Of an array of numbers, say."""
    try:
        return memoryview(value).cast("B")
    except (TypeError, ValueError, BufferError):
        return None


def _fields(value: Any) -> list[tuple[str, Any]]:
    """Its attributes, by name."""
    found: dict[str, Any] = {}
    for cls in type(value).__mro__:
        slots: Any = vars(cls).get("__slots__", ())
        for name in ("__dict__", *((slots,) if isinstance(slots, str) else slots)):
            # Not getattr(): a proxy would ask somebody else.
            with contextlib.suppress(AttributeError):
                found[name] = object.__getattribute__(value, name)
    return sorted((found | found.pop("__dict__", {})).items())
