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
    """Fork a run, ended or not, onto another version of its agent. The fork takes the run's place.

    It shares the log up to the first step whose code differs, and replays it. Where it does
    something else than the log says, it goes on without the rest. `forked` says how many operations
    were `kept` and which one is done `again`. An unfinished run is cancelled at once, without
    cleaning up.
    """
    made = await service.reload(ref, body.version, fresh=body.fresh)
    return Json(made, status_code=201)
