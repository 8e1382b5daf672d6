"""SQL over runs and logs, and queries that people saved, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Path, Response
from pydantic import AfterValidator, Field, WithJsonSchema

from torpor.api.routing import Router, Uses
from torpor.core.limits import KEPT_SQL_CHARS_MAX, SQL_INT_MAX
from torpor.query.ask import ROWS, ROWS_MAX, SQL_CHARS_MAX, TIMEOUT_S, TIMEOUT_S_MAX, Question
from torpor.service.queries import Rows, SavedQuery
from torpor.web.requests import ShortText, Strict, Text, sound


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
    limit: int = Field(default=ROWS, ge=1, le=ROWS_MAX, description=("the maximum number of rows"))
    timeout_s: float = Field(default=TIMEOUT_S, gt=0, le=TIMEOUT_S_MAX)

    def question(self) -> Question:
        return Question(self.sql, self.parameters, self.limit, self.timeout_s)


class SaveRequest(Strict):
    sql: Annotated[Text, Field(min_length=1, max_length=KEPT_SQL_CHARS_MAX)]


Name = Annotated[ShortText, Path()]

router = Router()


@router.post("/query")
async def query(body: QueryRequest, service: Uses) -> Rows:
    """Run a SELECT over the views of docs/sql.md. It can change nothing."""
    return await service.queries.ask(body.question())


@router.get("/queries")
async def saved(service: Uses) -> Sequence[SavedQuery]:
    """List saved queries."""
    return await service.queries.list()


@router.put("/queries/{name}")
async def save(name: Name, body: SaveRequest, service: Uses) -> SavedQuery:
    """Save a query under this name, replacing an existing one."""
    return await service.queries.save(name, body.sql)


@router.delete("/queries/{name}", status_code=204)
async def delete(name: Name, service: Uses) -> Response:
    """Delete a saved query."""
    await service.queries.delete(name)
    return Response(status_code=204)
