"""Runs as files, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.service.runs import Run
from torpor.web.requests import ShortText, Strict


class ExportQuery(Strict):
    snapshot: ShortText | None = Field(
        default=None, description=("this snapshot instead of the newest")
    )


router = Router()


@router.get("/runs/{ref}/export", response_class=StreamingResponse)
async def export(
    ref: str, query: Annotated[ExportQuery, Query()], service: Uses
) -> StreamingResponse:
    """Export the run to one file (docs/formats/export.md) that another torpor can import."""
    content = await service.transfers.export(ref, query.snapshot)
    return StreamingResponse(content, media_type="application/x-tar")


@router.post("/imports", status_code=201)
async def import_run(request: Request, service: Uses) -> Run:
    """Import an export, which is the request's body. The run goes on from where it was."""
    return await service.transfers.import_run(request.stream())
