"""The broker's HTTP face: checks what comes in, hands it to the upstream, writes one line of log.

What is not in `ALLOWED` is refused, and the refusal is logged (rule 10). The log holds paths,
statuses, sizes and times: never a header or a body.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import starlette.requests
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from torpor.broker.upstream import BODY_BYTES_MAX, Reply, Request, Upstream, json_reply, problem

ALLOWED = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
)
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_log = logging.getLogger(__name__)


def create_app(upstream: Upstream) -> Starlette:
    """The application. It closes `upstream` when it shuts down."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await upstream.close()

    async def health(_: starlette.requests.Request) -> Response:
        return _response(json_reply(200, {"upstream": upstream.description, "pid": os.getpid()}))

    async def relay(incoming: starlette.requests.Request) -> Response:
        started = time.monotonic()
        request = await _admit(incoming)
        reply = request if isinstance(request, Reply) else await upstream.send(request)
        _log.info(
            "%s %s: %d%s, %d bytes in %.2f s",
            incoming.method,
            ascii(incoming.url.path[:200]),
            reply.status,
            " refused" if reply is request else "",
            len(reply.body),
            time.monotonic() - started,
        )
        return _response(reply)

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/{path:path}", relay, methods=list(_METHODS)),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _admit(incoming: starlette.requests.Request) -> Request | Reply:
    """The request to send on, or why it is refused."""
    # Compared whole: nothing that must be unescaped or resolved first can match.
    path = incoming.scope["path"]
    if (incoming.method, path) not in ALLOWED:
        allowed = ", ".join(f"{method} {path}" for method, path in ALLOWED)
        return problem(
            403,
            "Not allowed",
            f"{incoming.method} {path[:200]} may not leave a machine",
            f"Allowed are: {allowed}.",
        )
    body = bytearray()
    async for chunk in incoming.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return problem(
                413,
                "Request too large",
                f"the body is larger than {BODY_BYTES_MAX:,} bytes",
                "Send less in one request.",
            )
    headers = dict(incoming.headers)
    return Request(incoming.method, path, incoming.url.query, headers, bytes(body))


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)
