"""Runs that go on as other versions of their agents, as `torpor dev` has them do."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, RunDetail, ShortText, Strict


class Reloading(Protocol):
    """What this needs of the control plane."""

    async def reload(self, ref: str, version: str, *, fresh: bool) -> dict[str, Any]: ...


class ReloadRequest(Strict):
    version: ShortText
    fresh: bool = Field(default=False, description="start over, without what was recorded")


def _service(request: Request) -> Reloading:
    service: Reloading = request.app.state.service
    return service


router = APIRouter(prefix="/v1/runs", responses=PROBLEMS)


@router.post("/{ref}/reload", status_code=201, responses={201: {"model": RunDetail}})
async def reload(
    ref: str, body: ReloadRequest, service: Annotated[Reloading, Depends(_service)]
) -> Json:
    """A fork onto another version of the agent that takes the run's place, be that ended or not.

    It shares the log up to where the first step ended whose code differs, and replays it; where it
    does something else than the log says, it goes on without the rest. `forked` says what was
    `kept` (how many operations) and which is done `again`. A run that has not ended is cancelled,
    at once and without cleaning up.
    """
    made = await service.reload(ref, body.version, fresh=body.fresh)
    return Json(made, status_code=201)
