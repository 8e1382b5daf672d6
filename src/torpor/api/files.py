"""Files for runs: uploaded first, each by its bytes, then named by the run that is to have them."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.service.files import Uploaded
from torpor.web.download import Content, download
from torpor.web.requests import Strict

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class UploadQuery(Strict):
    digest: Digest | None = Field(
        default=None, description="the BLAKE3 that the bytes must have, or they are refused"
    )


router = Router()


@router.post("/files", status_code=201)
async def upload(
    request: Request, service: Uses, query: Annotated[UploadQuery, Query()]
) -> Uploaded:
    """Upload a file, the request's body, for a run that is started within a day and names its
    digest in `files`. The same bytes again are the same file.
    """
    stated = request.headers.get("content-length", "")
    length = int(stated) if stated.isdigit() else None
    return await service.files.upload(request.stream(), query.digest, length)


@router.get("/files/{digest}")
async def uploaded(digest: str, service: Uses) -> Uploaded:
    """Whether a file is here already. If so, you need not upload it, and it stays for a day."""
    return await service.files.get(digest)


@router.get("/runs/{ref}/files/{path:path}", response_class=StreamingResponse)
async def content(ref: str, path: str, request: Request, service: Uses) -> Response:
    """A file of the run, as it was given to it. Takes `Range`."""
    return await download(Content.given(*await service.files.content(ref, path)), request.headers)
