"""What runs published and what was kept of them, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from torpor.web.download import Content, download
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS

Object = dict[str, Any]


class Artifacts(Protocol):
    """What this needs of the control plane (`torpor.control.service.artifacts`)."""

    async def list(self, ref: str) -> list[Object]: ...

    async def find(self, ref: str, name: str, version: int | None = None) -> Object: ...

    async def content(self, found: Object) -> Iterator[bytes]: ...


class Artifact(BaseModel):
    op: str
    name: str
    version: int = Field(description="its number among those of its name, from 1")
    bytes: int
    digest: str = Field(description="BLAKE3 of its content")
    media_type: str
    at: float
    seq: int
    step: str | None = Field(description="the step in whose body it was published")
    kept: bool = Field(description="not published, but kept when the run ended")


def _artifacts(request: Request) -> Artifacts:
    artifacts: Artifacts = request.app.state.service.artifacts
    return artifacts


Uses = Annotated[Artifacts, Depends(_artifacts)]

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.get("/runs/{ref}/artifacts", responses={200: {"model": list[Artifact]}})
async def artifacts(ref: str, uses: Uses) -> Json:
    """Files that the run published, then those that were kept when it ended: by name, the newest
    version first.
    """
    return Json(await uses.list(ref))


@router.get("/runs/{ref}/artifacts/{name:path}", response_class=StreamingResponse)
async def artifact(
    ref: str,
    name: str,
    request: Request,
    uses: Uses,
    version: Annotated[
        int | None, Query(ge=1, le=2**31, description="this version instead of the newest")
    ] = None,
) -> Response:
    """An artifact's content, whole or a `Range` of it. The `ETag` is its digest."""
    found = await uses.find(ref, name, version)
    return await download(Content.of(found, await uses.content(found)), request.headers)
