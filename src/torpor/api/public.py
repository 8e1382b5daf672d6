"""What the server shows to the public: waitpoints by their links. On its Unix socket beside the
whole API, and alone on a TCP port, where one was asked for (`torpor.api.listening`).

`public_app` is an app of its own, so that whatever else is to be reachable from outside is added
to it on purpose, and nothing by accident.
"""

from __future__ import annotations

from fastapi import FastAPI

from torpor.api import limits, problems
from torpor.public.pages import Asked, pages

Service = Asked


def install(app: FastAPI, service: Service) -> None:
    """Add the public routes to an app."""
    app.mount("/w", pages(service))


def public_app(service: Service) -> FastAPI:
    app = FastAPI(title="torpor", openapi_url=None)
    app.state.service = service
    app.add_middleware(limits.BodyLimit)
    problems.install(app)
    install(app, service)
    return app
