"""What the server shows on a TCP port, where one was asked for (`torpor.api.listening`).

To the public: waitpoints by their links, and where signed webhooks come in; both are on its Unix
socket, too, beside the whole API.
To who has a key: the API, `torpor.api.access`. `public_app` is an app of its own, so that whatever
else is to be reachable without a key is added to it on purpose, and nothing by accident; and so is
what a key opens: the paths in KEYED.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from torpor.api import hooks, limits
from torpor.api.access import Keyed
from torpor.public.pages import pages
from torpor.service.service import Service
from torpor.web import problems


def install(app: FastAPI, service: Service) -> None:
    """Add the public routes to an app."""
    app.mount("/w", pages(service.links))
    app.include_router(hooks.public)


def public_app(service: Service) -> FastAPI:
    app = FastAPI(title="torpor", openapi_url=None)
    app.state.service = service
    app.add_middleware(limits.BodyLimit)
    problems.install(app)
    install(app, service)
    return app


OPEN = "/w/"
KEYED = ("/v1/", "/metrics", "/docs", "/openapi.json")


class Outside:
    """The ASGI app of the port: what is public, and `api` for who has a key."""

    def __init__(self, service: Service, api: ASGIApp) -> None:
        self._public = public_app(service)
        self._keyed = Keyed(api, service.keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        app = self._public if path.startswith(OPEN) or not path.startswith(KEYED) else self._keyed
        await app(scope, receive, send)
