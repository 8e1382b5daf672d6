"""The application put together: every router, and what stands before them. Described for people at
/docs.

`create_app(service)` gives the application; its `state.stop` is how the server comes to its end
(`torpor.api.stopping`).
"""

from __future__ import annotations

from fastapi import Depends, FastAPI

import torpor
from torpor.api import (
    access,
    agents,
    artifacts,
    dashboard,
    egress,
    events,
    execs,
    files,
    hooks,
    keys,
    limits,
    logs,
    public,
    queries,
    queues,
    reference,
    release,
    runs,
    schedules,
    secrets,
    status,
    storage,
    tags,
    transfers,
    waits,
)
from torpor.api.stopping import Stop
from torpor.service.service import Service
from torpor.web import problems

# The page of the API has them in this order.
ROUTERS = (
    status.router,
    agents.router,
    runs.router,
    logs.router,
    storage.router,
    transfers.router,
    waits.router,
    queries.router,
    egress.router,
    artifacts.router,
    events.router,
    execs.router,
    files.router,
    queues.router,
    schedules.router,
    keys.router,
    secrets.router,
    hooks.router,
    status.unversioned,
)


def create_app(service: Service) -> FastAPI:
    app = FastAPI(
        title="torpor",
        version=torpor.__version__,
        description="Durable AI agents that sleep for free.",
        dependencies=[Depends(access.admit)],
        docs_url=None,  # FastAPI's own load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    app.state.stop = Stop(service.hand_over)
    app.add_middleware(limits.BodyLimit)
    app.add_middleware(tags.Tagged)
    app.add_middleware(release.Released)
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    reference.install(app)
    dashboard.install(app, service, app.state.stop)
    public.install(app, service)
    return app
