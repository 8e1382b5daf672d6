"""How the server is, and its end, over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from torpor.api.routing import Router, Uses, events, stop_of
from torpor.api.stopping import Stop
from torpor.service.agents import Report
from torpor.service.service import Health, Totals
from torpor.web import stream

router = Router()
unversioned = APIRouter()


@router.get("/health")
async def health(service: Uses) -> Health:
    """Whether the server runs, with its version and engine."""
    return await service.health()


@router.get("/totals")
async def totals(service: Uses) -> Totals:
    """How many runs, open waits and snapshots there are."""
    return await service.totals()


@router.post("/shutdown", status_code=202, response_class=StreamingResponse)
async def shutdown(stop: Annotated[Stop, Depends(stop_of)]) -> StreamingResponse:
    """Stop the server with its machines and processes. Each machine is frozen where it is and goes
    on there at the next start. Events: `progress`…, then `stopped`.
    """

    async def work(report: Report) -> dict[str, Any]:
        await stop.request(lambda words: report("stop", words, None))
        return {}

    return events(stream.progress(work, "stopped", stop.closing), 202)


@unversioned.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: Uses) -> Response:
    """For Prometheus, in its text format."""
    return Response(generate_latest(await service.metrics()), media_type=CONTENT_TYPE_LATEST)
