"""Files for runs: uploaded first, each by its bytes, then named by the run that is to have them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from torpor.core.runfiles import RunFile
from torpor.web.download import Content, download
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, Strict

Object = dict[str, Any]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Files(Protocol):
    """What this needs of the control plane: `torpor.worker.runfiles.RunFiles`."""

    async def receive(
        self, chunks: AsyncIterator[bytes], digest: str | None, told_bytes: int | None
    ) -> Object: ...

    async def known(self, digest: str) -> Object: ...

    async def content(self, ref: str, path: str) -> tuple[RunFile, Iterator[bytes]]:
        """Reading the bytes blocks."""
        ...


class Uploaded(BaseModel):
    digest: str = Field(description="BLAKE3 of the bytes, in hexadecimal digits")
    bytes: int


class UploadQuery(Strict):
    digest: Digest | None = Field(
        default=None, description="the BLAKE3 that the bytes must have, or they are refused"
    )


def _files(request: Request) -> Files:
    files: Files = request.app.state.service.files
    return files


Uses = Annotated[Files, Depends(_files)]

router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.post("/files", status_code=201, responses={201: {"model": Uploaded}})
async def upload(request: Request, files: Uses, query: Annotated[UploadQuery, Query()]) -> Json:
    """Upload a file, the request's body, for a run that is started within a day and names its
    digest in `files`. The same bytes again are the same file.
    """
    told = request.headers.get("content-length", "")
    length = int(told) if told.isdigit() else None
    return Json(await files.receive(request.stream(), query.digest, length), status_code=201)


@router.get("/files/{digest}", responses={200: {"model": Uploaded}})
async def uploaded(digest: str, files: Uses) -> Json:
    """Whether a file is here already. If so, you need not upload it, and it stays for a day."""
    return Json(await files.known(digest))


@router.get("/runs/{ref}/files/{path:path}", response_class=StreamingResponse)
async def content(ref: str, path: str, request: Request, files: Uses) -> Response:
    """A file of the run, as it was given to it. Takes `Range`."""
    return await download(Content.given(*await files.content(ref, path)), request.headers)
