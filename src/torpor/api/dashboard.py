"""The dashboard as the server has it: under /ui of its socket, and, once somebody asked for a link,
on a port of 127.0.0.1, where a browser of this host finds it.

    torpor dashboard ──► POST /v1/dashboard/links ──► a port is opened, if none is yet
                                                      a token that logs in once

Only the dashboard is on that port, not the API: whoever can connect to it has no more rights than
the session that a link started (`torpor.dashboard.sessions`).
"""

from __future__ import annotations

import asyncio
import socket
from typing import Annotated, cast

from fastapi import Depends, FastAPI, Request
from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.types import ASGIApp
from typing_extensions import TypedDict

from torpor.api import limits
from torpor.api.routing import Router
from torpor.api.serving import Uvicorn
from torpor.api.stopping import Stop
from torpor.core.errors import Conflict, HostError
from torpor.core.limits import DRAIN_S
from torpor.dashboard.app import dashboard
from torpor.dashboard.sessions import Sessions
from torpor.service.service import Service
from torpor.service.shapes import closed, reply
from torpor.web.requests import Strict

HOST = "127.0.0.1"
PORT = 7717

router = Router("/v1/dashboard")


class LinkRequest(Strict):
    port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description=f"a port of {HOST}; by default {PORT} if it is free",
    )


@closed
class Link(TypedDict):
    url: Annotated[str, Field(description=("logs a browser in; works once, within ten minutes"))]
    port: int


class Loopback:
    """A port of this host, opened when somebody wants it, until the server stops."""

    def __init__(self, app: ASGIApp, stop: Stop) -> None:
        self._app = app
        self._stop = stop
        self._serving: asyncio.Task[None] | None = None
        self._port = 0

    def open(self, port: int | None) -> int:
        """The port that is open. Raises Conflict when it is not the one that is asked for,
        HostError when that cannot be had."""
        if self._serving is None:
            bound = _bind(port)
            self._port = bound.getsockname()[1]
            server = Uvicorn(self._app, DRAIN_S)
            self._serving = asyncio.create_task(server.serve_until(self._stop.closing, bound))
        elif port not in (None, 0, self._port):
            raise Conflict(
                f"the dashboard is already on port {self._port}",
                hint="To use another port, stop the server first: torpor down.",
            )
        return self._port

    async def closed(self) -> None:
        """Return once nothing is served any more; the server stops."""
        if self._serving is not None:
            await self._serving


def _bind(port: int | None) -> socket.socket:
    """`port` of this host, or, if none is named, PORT or any other."""
    trouble: OSError | None = None
    for each in (PORT, 0) if port is None else (port,):
        # By its protocol asyncio knows that what it sends is not to be held back (TCP_NODELAY).
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, each))
        except OSError as error:
            bound.close()
            trouble = error
        else:
            bound.listen(128)
            bound.setblocking(False)
            return bound
    raise HostError(f"{HOST}:{port}: {trouble}", hint=("Choose another: torpor dashboard --port N"))


def install(app: FastAPI, service: Service, stop: Stop) -> None:
    sessions = Sessions()
    pages = dashboard(service, sessions, stop.closing)
    app.state.sessions = sessions
    app.state.loopback = Loopback(_alone(pages), stop)
    app.include_router(router)
    app.mount("/ui", pages)


def _alone(pages: ASGIApp) -> Starlette:
    """The dashboard and nothing else, for who asks for this host by its name: another site's name
    that is made to lead here is refused."""

    async def home(request: Request) -> RedirectResponse:
        return RedirectResponse("/ui/runs")

    hosts = [HOST, "localhost"]
    return Starlette(
        routes=[Route("/", home), Mount("/ui", pages)],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False),
            Middleware(limits.BodyLimit),
        ],
    )


def _loopback(request: Request) -> Loopback:
    return cast(Loopback, request.app.state.loopback)


def _sessions(request: Request) -> Sessions:
    return cast(Sessions, request.app.state.sessions)


@router.post("/links", status_code=201)
async def link(
    body: LinkRequest,
    loopback: Annotated[Loopback, Depends(_loopback)],
    sessions: Annotated[Sessions, Depends(_sessions)],
) -> Link:
    """Create a link that opens the dashboard in a browser of this host."""
    port = loopback.open(body.port)
    url = f"http://{HOST}:{port}/ui/login?token={sessions.link()}"
    return reply(Link, url=url, port=port)
