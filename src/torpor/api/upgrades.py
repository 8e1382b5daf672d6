"""Moving runs to other versions of their agents."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request

from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, Run, ShortText, Strict


class Upgrading(Protocol):
    """What this needs of the control plane."""

    async def upgrade(self, ref: str, version: str | None) -> dict[str, Any]: ...


class UpgradeRequest(Strict):
    version: ShortText | None = None


def _service(request: Request) -> Upgrading:
    service: Upgrading = request.app.state.service
    return service


router = APIRouter(prefix="/v1/runs", responses=PROBLEMS)


@router.post("/{ref}/upgrade", responses={200: {"model": Run}})
async def upgrade(
    ref: str, body: UpgradeRequest, service: Annotated[Upgrading, Depends(_service)]
) -> Json:
    """Move a waiting run to another version of its agent, by default the current one."""
    return Json(await service.upgrade(ref, body.version))
