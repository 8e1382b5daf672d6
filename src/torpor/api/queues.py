"""Queues over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, Strict

Object = dict[str, Any]


class Queueing(Protocol):
    """What this needs of the control plane (`torpor.control.service.queueing`)."""

    async def queues(self) -> list[Object]: ...

    async def set(self, name: str, changes: Mapping[str, Any]) -> Object: ...


class QueueRequest(Strict):
    """Only the given fields are changed; null removes a limit."""

    paused: bool = False
    concurrency: int | None = Field(default=None, ge=1, le=1_000_000)
    per_key: int | None = Field(default=None, ge=1, le=1_000_000)
    rate: str | None = Field(default=None, max_length=40, description='"10/1m"')


class Queue(BaseModel):
    """A queue's limits, and its unfinished runs by state. `suspended` runs sleep and take no
    slot.
    """

    name: str
    paused: bool
    concurrency: int | None
    per_key: int | None
    rate: str | None
    made_at: float
    delayed: int
    queued: int
    running: int
    suspended: int


def _queueing(request: Request) -> Queueing:
    queueing: Queueing = request.app.state.service.queueing
    return queueing


Uses = Annotated[Queueing, Depends(_queueing)]

router = APIRouter(prefix="/v1/queues", responses=PROBLEMS)


@router.get("", responses={200: {"model": list[Queue]}})
async def queues(queueing: Uses) -> Json:
    """List queues."""
    return Json(await queueing.queues())


@router.patch("/{name}", responses={200: {"model": Queue}})
async def set_queue(name: str, body: QueueRequest, queueing: Uses) -> Json:
    """Pause or resume a queue, or change its limits. The queue is created if there is none."""
    return Json(await queueing.set(name, body.model_dump(exclude_unset=True)))
