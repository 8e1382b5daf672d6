"""What runs recorded and printed, over HTTP: read, or followed as it comes."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from fastapi import Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from torpor.api.routing import Closing, Router, Uses, events, gives, next_page
from torpor.core.states import FINAL
from torpor.service.logs import Entry
from torpor.web import stream as streams
from torpor.web.problems import Json
from torpor.web.requests import Strict, split


class LogQuery(Strict):
    after: int = Field(default=0, ge=0, le=2**53, description="only entries with a larger seq")
    limit: int = Field(default=1000, ge=1, le=10_000)
    kinds: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="comma separated"
    )
    follow: bool = Field(default=False, description=("stream entries until the run ends"))
    tail: int | None = Field(
        default=None,
        ge=0,
        le=2**53,
        description=("only this many of the last entries of these kinds"),
    )
    since: float | None = Field(
        default=None, ge=0, le=2**53, description=("only entries since then; unix seconds")
    )


class OutputQuery(Strict):
    offset: int = Field(default=0, ge=0, le=2**53, description=("start at this byte of the stream"))


router = Router()


@router.get("/runs/{ref}/log", responses=gives(list[Entry]))
async def log(
    ref: str,
    query: Annotated[LogQuery, Query()],
    request: Request,
    service: Uses,
    closing: Closing,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The run's context log, in pages of about 4 MiB; `Link: <…>; rel="next"` leads to the next
    one. With `follow`, it is a stream of events: `entry`… (its id is the seq), then `end`. Resume
    an interrupted stream with the header `Last-Event-ID`.
    """
    logs, kinds, after = service.logs, split(query.kinds), query.after
    if query.tail is not None or query.since is not None:
        after = max(after, await logs.begin(ref, kinds, query.tail, query.since))
    if not query.follow:
        page = await logs.read(ref, after, query.limit, kinds)
        headers = next_page(request, page.more, page.entries, "after", "seq")
        return Json(page.entries, headers=headers)
    run = await service.runs.find(ref)
    lines = streams.follow(
        partial(logs.read, run["id"]),
        partial(logs.changed, run["id"]),
        after=max(after, streams.seen(last_event_id)),
        kinds=kinds,
        ended=run["state"] if run["state"] in FINAL else None,
        closing=closing,
    )
    return events(lines)


@router.get("/runs/{ref}/output/{stream}", response_class=StreamingResponse)
async def output(
    ref: str,
    stream: Literal["stdout", "stderr"],
    query: Annotated[OutputQuery, Query()],
    service: Uses,
) -> StreamingResponse:
    """Everything that the agent printed, including output beyond its log (`output.beside`)."""
    content = await service.logs.output(ref, stream, query.offset)
    return StreamingResponse(content, media_type="text/plain; charset=utf-8")
