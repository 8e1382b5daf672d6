"""What requests have in common, checked strictly (rule 13): a field that is unknown, of the wrong
type, out of range, or that holds something JSON cannot carry back is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from torpor.core import jsonvalues
from torpor.core.environment import check_env
from torpor.core.errors import Invalid
from torpor.engine import registry


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


def valid(check: Callable[[Any], object]) -> AfterValidator:
    """A validator of a field that `check` may refuse with Invalid."""

    def validate(value: Any) -> Any:
        try:
            check(value)
        except Invalid as error:
            raise ValueError(f"{error.message}. {error.hint}".removesuffix(". ")) from error
        return value

    return AfterValidator(validate)


def sound(value: Any) -> Any:
    """Python's parser takes more than JSON, and deeper (`torpor.core.jsonvalues`)."""
    if (fault := jsonvalues.fault(value)) is not None:
        raise ValueError(fault)
    return value


def _engine(name: str) -> str:
    try:
        return registry.check(name, "engine")
    except Invalid as error:
        raise ValueError(f"{error.message}. {error.hint}") from error


def _utf8(header: Any) -> Any:
    """A header's bytes come as Latin-1; they are read as what a body is in."""
    try:
        return header.encode("latin-1").decode() if isinstance(header, str) else header
    except UnicodeError:
        raise ValueError("is not UTF-8; give it in the body instead") from None


def split(text: str | None) -> list[str] | None:
    """The parts of a comma separated parameter."""
    return text.split(",") if text else None


AnyJson = Annotated[Any, AfterValidator(sound)]
JsonObject = Annotated[dict[str, Any], AfterValidator(sound)]
Text = Annotated[str, AfterValidator(sound)]
ShortText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(sound)]
Note = Annotated[str, Field(max_length=10_000), AfterValidator(sound)]

Env = Annotated[dict[str, str], valid(lambda given: check_env(given, "env"))]
EngineName = Annotated[
    str, AfterValidator(_engine), WithJsonSchema({"type": "string", "enum": list(registry.NAMES)})
]
HeaderText = Annotated[ShortText, BeforeValidator(_utf8)]
