"""Events in: what is sent to a run that waits, or will wait, for it by name."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request

from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, SendRequest, Sent

Object = dict[str, Any]


class Receiver(Protocol):
    """What this needs of the control plane."""

    async def send(
        self, ref: str, name: str, data: Any, by: str | None, event: str | None
    ) -> Object: ...


def _receiver(request: Request) -> Receiver:
    service: Receiver = request.app.state.service
    return service


router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.post("/runs/{ref}/events", status_code=202, responses={202: {"model": Sent}})
async def send(
    ref: str, body: SendRequest, service: Annotated[Receiver, Depends(_receiver)]
) -> Json:
    """Send the run an event. Its oldest wait for that name takes it; without one, the event is kept
    until there is. 409 if the run has ended, or keeps too many events.
    """
    return Json(await service.send(ref, body.name, body.data, body.by, body.id), status_code=202)
