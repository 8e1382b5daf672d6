"""The dashboard put together."""

from __future__ import annotations

import asyncio

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from torpor.core.errors import Invalid, NotFound, TorporError
from torpor.dashboard import actions, assets, console, live, pages
from torpor.dashboard.guard import Guard
from torpor.dashboard.sessions import Sessions
from torpor.service.service import Service
from torpor.web.problems import problem, reported

_ROUTES = [
    Route("/", pages.home),
    Route("/login", pages.login),
    Route("/logout", actions.log_out, methods=["POST"]),
    Route("/static/{name}", assets.serve),
    Route("/runs", pages.runs),
    Route("/runs/{ref}", pages.run),
    Route("/runs/{ref}/head", pages.head),
    Route("/runs/{ref}/live", live.live),
    Route("/runs/{ref}/entries/{seq:int}", pages.entry),
    Route("/runs/{ref}/output/{stream}", pages.output),
    Route("/runs/{ref}/artifacts/{name:path}", pages.artifact),
    Route("/runs/{ref}/files/{path:path}", pages.given),
    Route("/runs/{ref}/cancel", actions.cancel, methods=["POST"]),
    Route("/runs/{ref}/delete", actions.delete, methods=["POST"]),
    Route("/runs/{ref}/retry", actions.retry, methods=["POST"]),
    Route("/runs/{ref}/events", actions.send, methods=["POST"]),
    Route("/runs/{ref}/fork", actions.fork, methods=["POST"]),
    Route("/waits", pages.waits),
    Route("/waits/{ref}", actions.complete, methods=["POST"]),
    Route("/waits/{ref}/action", pages.action),
    Route("/agents", pages.agents),
    Route("/agents/{version}/runs", actions.start, methods=["POST"]),
    Route("/queues", pages.queues),
    Route("/queues/{name:path}", actions.queue, methods=["POST"]),
    Route("/schedules", pages.schedules),
    Route("/schedules", actions.add_schedule, methods=["POST"]),
    Route("/schedules/{name:path}", actions.schedule, methods=["POST"]),
    Route("/secrets", pages.secrets),
    Route("/secrets", actions.set_secret, methods=["POST"]),
    Route("/secrets/{name}", actions.secret, methods=["POST"]),
    Route("/query", console.console),
    Route("/query.csv", console.as_csv),
    Route("/queries", console.save, methods=["POST"]),
    Route("/queries/delete", console.delete, methods=["POST"]),
    Route("/storage", pages.storage),
    Route("/storage/reclaimable", pages.reclaimable),
    Route("/storage/collect", actions.collect, methods=["POST"]),
]


def dashboard(service: Service, sessions: Sessions, closing: asyncio.Event) -> Starlette:
    """To be mounted at /ui. `closing`: the server stops, and streams end."""
    app = Starlette(
        routes=_ROUTES,
        middleware=[Middleware(Guard, sessions=sessions)],
        exception_handlers={
            TorporError: _on_error,
            HTTPException: _on_http,
            Exception: _on_unexpected,
        },
    )
    app.state.service, app.state.sessions, app.state.closing = service, sessions, closing
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TorporError)
    return pages.problem(request, problem(error))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    kind = NotFound if error.status_code == 404 else Invalid
    words = f"{request.method} {request.url.path}: {error.detail}"
    return pages.problem(request, problem(kind(words), error.status_code))


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return pages.problem(request, problem(reported(error)))
