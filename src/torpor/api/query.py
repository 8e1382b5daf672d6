"""The shapes of POST /v1/query."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema

from torpor.core.limits import SQL_INT_MAX
from torpor.query.ask import ROWS, ROWS_MAX, SQL_CHARS_MAX, TIMEOUT_S, TIMEOUT_S_MAX, Question
from torpor.web.shapes import Strict, Text, sound


def _parameter(value: Any) -> Any:
    """As SQLite has it, not converted: a union would make a float of a large integer."""
    match value:
        case list() | dict():
            raise ValueError("is a number, text, true, false or null")
        case int() if not -SQL_INT_MAX - 1 <= value <= SQL_INT_MAX:
            raise ValueError("is an integer of more than 64 bits, which SQLite does not have")
    return sound(value)


Parameter = Annotated[
    Any,
    AfterValidator(_parameter),
    WithJsonSchema({"type": ["number", "string", "boolean", "null"]}),
]


class QueryRequest(Strict):
    sql: Annotated[Text, Field(min_length=1, max_length=SQL_CHARS_MAX)]
    parameters: (
        Annotated[list[Parameter], Field(max_length=100)]
        | Annotated[dict[str, Parameter], Field(max_length=100)]
    ) = Field(default=[], description="for `?`, or by name for `:name`")
    limit: int = Field(default=ROWS, ge=1, le=ROWS_MAX, description="the maximum number of rows")
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, le=TIMEOUT_S_MAX)

    def question(self) -> Question:
        return Question(self.sql, self.parameters, self.limit, self.timeout_s)


class Rows(BaseModel):
    """`more`: there are rows beyond `limit`, or beyond 8 MiB. Blobs are text, `0x…`."""

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    ms: float
