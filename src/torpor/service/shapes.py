"""How replies are built: JSON objects of a declared shape, checked where they are built.

A reply is a `TypedDict`, since everything that receives one wants JSON: HTTP clients, templates,
and the words that the command line shares with the dashboard. `reply` refuses what the shape does
not have as well as what it lacks, so that a field nobody documented is a failing test. That is so
under tests (`STRICT`); elsewhere the server reports it in its log and replies all the same: one odd
row, of another version perhaps, must not take a whole list from everybody.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

log = logging.getLogger(__name__)

STRICT = "TORPOR_STRICT_REPLIES"
"""The variable of the environment that is set where a reply of the wrong shape is an error."""

Object = dict[str, Any]
"""JSON whose fields are not ours to declare: an agent's description, an entry's data."""

T = TypeVar("T")


def _open(schema: Object) -> None:
    """Clients must accept fields that a later release adds."""
    schema.pop("additionalProperties", None)


closed = with_config(ConfigDict(extra="forbid", json_schema_extra=_open))
"""Decorates the TypedDict of a reply."""


def reply(shape: type[T], *parts: Mapping[str, Any], **fields: Any) -> T:
    """The reply that has the fields of all `parts`, later ones first, and these. Where replies are
    STRICT, raises pydantic.ValidationError for what does not fit its shape."""
    whole: Object = {}
    for part in parts:
        whole.update(part)
    whole |= fields
    try:
        return cast(T, _adapter(cast(Any, shape)).validate_python(whole))
    except ValidationError as error:
        if os.environ.get(STRICT):
            raise
        log.error("a reply is not a %s: %s", shape.__name__, error)
        return cast(T, whole)


@cache
def _adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)
