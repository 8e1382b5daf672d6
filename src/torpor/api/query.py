"""The shapes of POST /v1/query."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from torpor.api.shapes import Strict, Text
from torpor.query.ask import ROWS, ROWS_MAX, SQL_CHARS_MAX, TIMEOUT_S, TIMEOUT_S_MAX, Question

_INT_MAX = 2**63 - 1
Parameter = Annotated[int, Field(ge=-_INT_MAX - 1, le=_INT_MAX)] | float | Text | bool | None


class QueryRequest(Strict):
    sql: Annotated[Text, Field(min_length=1, max_length=SQL_CHARS_MAX)]
    parameters: (
        Annotated[list[Parameter], Field(max_length=100)]
        | Annotated[dict[str, Parameter], Field(max_length=100)]
    ) = Field(default=[], description="for `?`, or by name for `:name`")
    limit: int = Field(default=ROWS, ge=1, le=ROWS_MAX, description="rows that are given")
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, le=TIMEOUT_S_MAX)

    def question(self) -> Question:
        return Question(self.sql, self.parameters, self.limit, self.timeout_s)


class Rows(BaseModel):
    """`more`: there are rows beyond `limit`, or beyond 8 MiB. Blobs are text, `0x…`."""

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    ms: float
