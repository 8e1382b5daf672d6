"""The broker's HTTP face: checks what comes in, hands it on, writes one line of log.

    POST   /calls?run&op&method&path   make this call, or join it; its answer, whatever its status
    GET    /calls?run&op               the answer of a call that was made before
    DELETE /calls?run&op               its answer is recorded
    DELETE /calls?run                  the run has ended
    GET    /health

An answer is marked as one (`client.ANSWERED`): whatever else comes back says that there is none.
What a machine asks for is in the query and never part of a path of ours: no machine can name
another's calls. What is not in `ALLOWED` is refused, and the refusal is logged (rule 10). The log
holds paths, statuses, sizes and times: never a header or a body.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import quote

import starlette.requests
from starlette.applications import Starlette
from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.routing import Route

from torpor.egress.calls import Calls, Key
from torpor.egress.protocol import BODY_BYTES_MAX
from torpor.egress.upstream import Reply, Request, Upstream, json_reply, problem
from torpor.egress.whole import ANSWERED, BY

ALLOWED = (
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/responses"),
    ("GET", "/v1/models"),
)

_log = logging.getLogger(__name__)


def create_app(upstream: Upstream, calls: Calls | None = None) -> Starlette:
    """The application, which has `calls` over `upstream`. It closes both when it shuts down."""
    known = Calls(upstream) if calls is None else calls

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await known.close()
        await upstream.close()

    def by(response: Response) -> Response:
        response.headers[BY] = known.id
        return response

    async def health(_: starlette.requests.Request) -> Response:
        described = {"upstream": upstream.description, "pid": os.getpid()}
        return by(_response(json_reply(200, described)))

    async def make(incoming: starlette.requests.Request) -> Response:
        started, query = time.monotonic(), incoming.query_params
        request = await _admit(incoming)
        reply = request if isinstance(request, Reply) else await known.make(_key(query), request)
        _log.info(
            "%s %s: %s in %.2f s",
            *(_plain(query["method"]), _plain(query["path"].partition("?")[0])),
            _outcome(reply, refused=reply is request),
            time.monotonic() - started,
        )
        return by(_answer(reply))

    async def adopt(incoming: starlette.requests.Request) -> Response:
        return by(_answer(await known.adopt(_key(incoming.query_params))))

    async def drop(incoming: starlette.requests.Request) -> Response:
        query = incoming.query_params
        if "op" in query:
            known.acknowledge(_key(query))
        else:
            known.forget(query["run"])
        return Response(status_code=204)

    routes = [
        Route("/health", health, methods=["GET"]),
        Route("/calls", make, methods=["POST"]),
        Route("/calls", adopt, methods=["GET"]),
        Route("/calls", drop, methods=["DELETE"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


async def _admit(incoming: starlette.requests.Request) -> Request | Reply:
    """The request to send on, or why it is refused."""
    method = incoming.query_params["method"]
    # Compared whole: nothing that must be unescaped or resolved first can match.
    path, _, query = incoming.query_params["path"].partition("?")
    if (method, path) not in ALLOWED:
        allowed = ", ".join(f"{method} {path}" for method, path in ALLOWED)
        return problem(
            *(path, 403, "not_allowed"),
            f"{method} {path[:200]} may not leave a machine",
            f"Allowed are: {allowed}.",
        )
    body = bytearray()
    async for chunk in incoming.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            return problem(
                *(path, 413, "too_large"),
                f"the request's body is larger than {BODY_BYTES_MAX:,} bytes",
                "Send less in one request.",
            )
    headers = dict(incoming.headers)
    if method == "POST":
        # Sent twice only if nobody knows whether it was sent: an API that takes keys does it once.
        run, op = _key(incoming.query_params)
        headers.setdefault("idempotency-key", f"{run}:{quote(op, safe='/:@#')}")
    return Request(method, path, query, headers, bytes(body))


def _plain(text: str) -> str:
    """For the log: what a machine wrote, in one line."""
    return ascii(text[:200])[1:-1]


def _key(query: QueryParams) -> Key:
    return query["run"], query["op"]


def _outcome(reply: Reply | None, *, refused: bool) -> str:
    if reply is None:
        return "given up"
    return f"{reply.status}{' refused' if refused else ''}, {len(reply.body)} bytes"


def _answer(reply: Reply | None) -> Response:
    if reply is None:
        return Response(status_code=404)
    return _response(replace(reply, headers=reply.headers | ANSWERED))


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)
