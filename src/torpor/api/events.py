"""Events in: what is sent to a run that waits, or will wait, for it by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from torpor.api.routing import Router, Uses
from torpor.service.events import Sent
from torpor.web.requests import AnyJson, ShortText, Strict, sound


class SendRequest(Strict):
    name: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)]
    data: AnyJson = None
    id: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)] | None = Field(
        default=None, description=("your id: sent twice with the same id, it is one event")
    )
    by: ShortText | None = None


router = Router()


@router.post("/runs/{ref}/events", status_code=202)
async def send(ref: str, body: SendRequest, service: Uses) -> Sent:
    """Send the run an event. Its oldest wait for that name takes it; without one, the event is kept
    until there is. 409 if the run has ended, or keeps too many events.
    """
    return await service.events.send(ref, body.name, body.data, by=body.by, id=body.id)
