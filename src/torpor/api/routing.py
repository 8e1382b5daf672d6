"""Routes: what every module of endpoints begins with.

A handler returns a reply of `torpor.service`, and its annotation is what /docs says about it; or it
returns a response of its own, and says so in `responses`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse

from torpor.api.stopping import Stop
from torpor.service.service import Service
from torpor.web.problems import PROBLEMS, Json

Handler = Callable[..., Any]
Responses = dict[int | str, dict[str, Any]]


class Router(APIRouter):
    def __init__(self, prefix: str = "/v1") -> None:
        super().__init__(prefix=prefix, responses=PROBLEMS)

    def add_api_route(self, path: str, endpoint: Handler, **options: Any) -> None:
        shape = get_type_hints(endpoint, include_extras=True)["return"]
        if not (isinstance(shape, type) and issubclass(shape, Response)):
            status = options.get("status_code") or 200
            options["responses"] = {**(options.get("responses") or {}), **gives(shape, status)}
            endpoint = _in_json(endpoint, status)
        super().add_api_route(path, endpoint, **{**options, "response_model": None})


def gives(shape: Any, status: int = 200) -> Responses:
    return {status: {"model": shape}}


def _in_json(endpoint: Handler, status: int) -> Handler:
    @wraps(endpoint)
    async def handler(*args: Any, **options: Any) -> Json:
        return Json(await endpoint(*args, **options), status)

    return handler


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def stop_of(request: Request) -> Stop:
    stop: Stop = request.app.state.stop
    return stop


def _closing(request: Request) -> asyncio.Event:
    return stop_of(request).closing


Uses = Annotated[Service, Depends(service_of)]
Closing = Annotated[asyncio.Event, Depends(_closing)]


def next_page(
    request: Request, more: bool, page: Sequence[Mapping[str, Any]], after: str, key: str
) -> dict[str, str]:
    """Where a page goes on if there may be `more` (RFC 8288)."""
    if not more:
        return {}
    here = request.url.remove_query_params(["tail", "since"])  # what is last changes
    there = here.include_query_params(**{after: page[-1][key]})
    return {"link": f'<{there.path}?{there.query}>; rel="next"'}


def events(lines: AsyncIterator[str], status: int = 200) -> StreamingResponse:
    """Server-sent events (`torpor.web.stream`)."""
    headers = {"cache-control": "no-store"}
    return StreamingResponse(lines, status, headers, "text/event-stream")
