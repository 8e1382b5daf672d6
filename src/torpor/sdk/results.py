"""A step's result as its return annotation says, made of what was recorded of it.

It is made each time that the result is given to the agent, at once and in a replay, so both give
the same: `-> Order` gives an `Order`, a step in plain Python does too, and type checkers are right.
What JSON gives back by itself is left alone, and so is what does not fit: it arrives as JSON.
"""

from __future__ import annotations

import collections.abc
import types
import typing
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, Union

from torpor.sdk import parameters, values
from torpor.sdk.parameters import Kinds, Read

# Of such annotations nothing is to be made.
_PLAIN: Final = (None, type(None), bool, int, float, str, bytes, list, dict, Any, object)
_LISTS: Final = (list, collections.abc.Sequence, collections.abc.MutableSequence)
_DICTS: Final = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Results:
    """Those of a function."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn

    def of(self, packed: Any) -> Any:
        """The value that the recorded `packed` stands for, a fresh one."""
        value = values.unpack(packed)
        try:
            return value if self._read is None else self._read(value)
        except Exception:  # a Misfit, or what a class of the agent's own raises
            return values.unpack(packed)

    @cached_property
    def _read(self) -> Read | None:
        """Made at the first result: before that, the file need not have been imported whole."""
        annotation = parameters.hints(self._fn).get("return", Any)
        return None if _as_json(annotation) else Kinds().of(annotation).read


def _as_json(annotation: Any) -> bool:
    """Whether JSON gives it back as it was."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType) or origin in _LISTS:
        return all(map(_as_json, args))
    if origin in _DICTS:
        return not args or (args[0] in (str, Any) and _as_json(args[1]))
    if origin is typing.Literal:
        return all(type(each) in _PLAIN for each in args)
    return isinstance(annotation, typing.TypeVar) or any(annotation is each for each in _PLAIN)
