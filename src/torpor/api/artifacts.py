"""What runs published and what was kept of them, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse

from torpor.api.routing import Router, Uses
from torpor.service.files import Artifact
from torpor.web.download import Content, download

router = Router()


@router.get("/runs/{ref}/artifacts")
async def artifacts(ref: str, service: Uses) -> Sequence[Artifact]:
    """Files that the run published, then those that were kept when it ended: by name, the newest
    version first.
    """
    return await service.artifacts.list(ref)


@router.get("/runs/{ref}/artifacts/{name:path}", response_class=StreamingResponse)
async def artifact(
    ref: str,
    name: str,
    request: Request,
    service: Uses,
    version: Annotated[
        int | None, Query(ge=1, le=2**31, description=("this version instead of the newest"))
    ] = None,
) -> Response:
    """An artifact's content, whole or a `Range` of it. The `ETag` is its digest."""
    found = await service.artifacts.content(ref, name, version)
    return await download(Content.of(*found), request.headers)
