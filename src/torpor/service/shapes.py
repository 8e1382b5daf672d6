"""How replies are built: JSON objects of a declared shape, checked where they are built.

A reply is a `TypedDict`, since everything that receives one wants JSON: HTTP clients, templates,
and the words that the command line shares with the dashboard. `reply` refuses what the shape does
not have as well as what it lacks, so that a field nobody documented is a failing test.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, with_config

Object = dict[str, Any]
"""JSON whose fields are not ours to declare: an agent's description, an entry's data."""

T = TypeVar("T")


def _open(schema: Object) -> None:
    """Clients must accept fields that a later release adds."""
    schema.pop("additionalProperties", None)


closed = with_config(ConfigDict(extra="forbid", json_schema_extra=_open))
"""Decorates the TypedDict of a reply."""


def reply(shape: type[T], *parts: Mapping[str, Any], **fields: Any) -> T:
    """The reply that has the fields of all `parts`, later ones first, and these. What does not fit
    its shape is a fault of ours: pydantic.ValidationError."""
    whole: Object = {}
    for part in parts:
        whole.update(part)
    return cast(T, _adapter(cast(Any, shape)).validate_python(whole | fields))


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
