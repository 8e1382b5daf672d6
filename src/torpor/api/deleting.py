"""Ended runs, deleted over HTTP, and how long they are kept."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from torpor.core.retention import Retention
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, Strict

Object = dict[str, Any]


class Deleting(Protocol):
    """What this needs of the control plane (`torpor.control.service.deleting`)."""

    async def delete(self, ref: str) -> Object: ...

    async def retention(self) -> Object: ...

    async def keep(self, retention: Retention) -> Object: ...


class Deleted(BaseModel):
    id: str
    deleted: bool


class Kept(Strict):
    """Null means no limit."""

    age_s: float | None = Field(
        default=None, description="delete runs that ended longer ago than this"
    )
    log_bytes: int | None = Field(
        default=None,
        le=2**60,
        description="while the database is larger than this, delete the runs that ended first",
    )


def _deleting(request: Request) -> Deleting:
    deleting: Deleting = request.app.state.service.deleting
    return deleting


Uses = Annotated[Deleting, Depends(_deleting)]

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.delete("/runs/{ref}", responses={200: {"model": Deleted}})
async def delete(ref: str, deleting: Uses) -> Json:
    """Delete an ended run for good, with its log, waits, snapshots and keys. 409 if it has not
    ended, or if other runs share its log.
    """
    return Json(await deleting.delete(ref))


@router.get("/retention", responses={200: {"model": Kept}})
async def retention(deleting: Uses) -> Json:
    """How long ended runs are kept."""
    return Json(await deleting.retention())


@router.put("/retention", responses={200: {"model": Kept}})
async def keep(body: Kept, deleting: Uses) -> Json:
    """Set for how long ended runs are kept. Without limits, none is deleted automatically."""
    return Json(await deleting.keep(Retention(body.age_s, body.log_bytes)))
