"""Queues over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.service.queues import Queue, QueueChanges
from torpor.web.requests import Strict


class QueueRequest(Strict):
    """Only the given fields are changed; null removes a limit."""

    paused: bool = False
    concurrency: int | None = Field(default=None, ge=1, le=1_000_000)
    per_key: int | None = Field(default=None, ge=1, le=1_000_000)
    rate: str | None = Field(default=None, max_length=40, description='"10/1m"')


router = Router("/v1/queues")


@router.get("")
async def queues(service: Uses) -> Sequence[Queue]:
    """List queues."""
    return await service.queues.list()


@router.patch("/{name}")
async def set_queue(name: str, body: QueueRequest, service: Uses) -> Queue:
    """Pause or resume a queue, or change its limits. The queue is created if there is none."""
    changes = cast(QueueChanges, body.model_dump(exclude_unset=True))
    return await service.queues.update(name, changes)
