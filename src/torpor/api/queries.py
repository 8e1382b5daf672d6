"""Saved queries: SQL that people have given a name, for who asks in the dashboard or here."""

from __future__ import annotations

from typing import Annotated, Any, Protocol, cast

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field

from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, ShortText, Strict, Text

router = APIRouter(prefix="/v1/queries", responses=PROBLEMS)


class Queries(Protocol):
    async def saved_queries(self) -> list[dict[str, Any]]: ...

    async def save_query(self, name: str, sql: str) -> dict[str, Any]: ...

    async def delete_query(self, name: str) -> None: ...


class SavedQuery(BaseModel):
    name: str
    sql: str
    saved_at: float


class SaveRequest(Strict):
    sql: Annotated[Text, Field(min_length=1, max_length=20_000)]


def _queries(request: Request) -> Queries:
    return cast(Queries, request.app.state.service)


Uses = Annotated[Queries, Depends(_queries)]
Name = Annotated[ShortText, Path()]


@router.get("", responses={200: {"model": list[SavedQuery]}})
async def saved(queries: Uses) -> Json:
    """List saved queries."""
    return Json(await queries.saved_queries())


@router.put("/{name}", responses={200: {"model": SavedQuery}})
async def save(name: Name, body: SaveRequest, queries: Uses) -> Json:
    """Save a query under this name, replacing an existing one."""
    return Json(await queries.save_query(name, body.sql))


@router.delete("/{name}", status_code=204)
async def delete(name: Name, queries: Uses) -> Response:
    """Delete a saved query."""
    await queries.delete_query(name)
    return Response(status_code=204)
