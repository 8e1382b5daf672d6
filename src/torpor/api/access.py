"""Who may ask for what: one table, and where it is looked at.

The Unix socket can be opened by its user only, so whoever asks there may do everything (`LOCAL`).
What comes by TCP passes `Keyed` first, which takes the key out of the request and says whose it
is. Then `admit`, which every route of the API depends on, holds the grant against ROUTES; a route
that is not there is refused to all others. Every refusal is logged, with who asked and for what,
never the key.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from enum import Enum, auto

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from torpor.api.routing import service_of
from torpor.core import access
from torpor.core.access import LOCAL, Grant
from torpor.core.errors import Forbidden, Unauthorized
from torpor.service.keys import ApiKeys
from torpor.web.problems import refuse

log = logging.getLogger("torpor.api.access")

_GRANT = "torpor.grant"
_CONVERTER = re.compile(r":\w+\}")  # {op:path}: the API's description has {op}


class On(Enum):
    """What a route is about, so that a grant for some agents or one run can be held against it."""

    RUN = auto()  # the run `ref` of the path
    WAIT = auto()  # the wait `ref` of the path
    RUNS = auto()  # those of the agent that the query names
    WAITS = auto()  # those of the run that the query names
    START = auto()  # a run of the agent that the body names
    NOTHING = auto()  # no secret of anybody
    ALL = auto()  # all there is


@dataclass(frozen=True)
class Need:
    scope: access.Scope
    on: On = On.ALL


_S = access.Scope
ROUTES: dict[tuple[str, str], Need] = {
    ("GET", "/v1/health"): Need(_S.OBSERVE, On.NOTHING),
    ("GET", "/metrics"): Need(_S.OBSERVE),
    ("GET", "/v1/totals"): Need(_S.OBSERVE),
    ("GET", "/v1/agents"): Need(_S.OBSERVE),
    ("GET", "/v1/agents/{ref}"): Need(_S.OBSERVE),
    ("POST", "/v1/agents"): Need(_S.DEPLOY),
    ("GET", "/v1/runs"): Need(_S.OBSERVE, On.RUNS),
    ("DELETE", "/v1/agents"): Need(_S.DEPLOY),
    ("POST", "/v1/runs"): Need(_S.TRIGGER, On.START),
    # Who names a file by its digest has had its bytes, or was given the digest.
    ("POST", "/v1/files"): Need(_S.TRIGGER, On.NOTHING),
    ("GET", "/v1/files/{digest}"): Need(_S.TRIGGER, On.NOTHING),
    ("GET", "/v1/runs/{ref}/files/{path}"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/log"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/results/{op}"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/output/{stream}"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/artifacts"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/artifacts/{name}"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/snapshots"): Need(_S.OBSERVE, On.RUN),
    ("GET", "/v1/runs/{ref}/verify"): Need(_S.OPERATE, On.RUN),
    ("GET", "/v1/runs/{ref}/export"): Need(_S.ADMIN),  # it has the run's key
    ("POST", "/v1/runs/{ref}/cancel"): Need(_S.OPERATE, On.RUN),
    ("POST", "/v1/runs/{ref}/fork"): Need(_S.OPERATE, On.RUN),
    ("POST", "/v1/runs/{ref}/retry"): Need(_S.OPERATE, On.RUN),
    ("POST", "/v1/runs/{ref}/upgrade"): Need(_S.OPERATE, On.RUN),
    ("POST", "/v1/runs/{ref}/reload"): Need(_S.OPERATE, On.RUN),
    ("POST", "/v1/runs/{ref}/events"): Need(_S.TRIGGER, On.RUN),
    ("PATCH", "/v1/runs/{ref}/snapshots/{snapshot}"): Need(_S.OPERATE, On.RUN),
    ("DELETE", "/v1/runs/{ref}"): Need(_S.ADMIN),
    ("GET", "/v1/retention"): Need(_S.OBSERVE),
    ("PUT", "/v1/retention"): Need(_S.ADMIN),
    ("POST", "/v1/imports"): Need(_S.ADMIN),
    ("POST", "/v1/gc"): Need(_S.OPERATE),
    ("POST", "/v1/backups"): Need(_S.ADMIN),
    ("POST", "/v1/runs/{ref}/execs"): Need(_S.EXEC, On.RUN),
    ("PUT", "/v1/runs/{ref}/execs/{exec}/stdin"): Need(_S.EXEC, On.RUN),
    ("PATCH", "/v1/runs/{ref}/execs/{exec}"): Need(_S.EXEC, On.RUN),
    ("GET", "/v1/waits"): Need(_S.OBSERVE, On.WAITS),
    ("GET", "/v1/waits/{ref}"): Need(_S.OBSERVE, On.WAIT),
    ("GET", "/v1/waits/{ref}/action"): Need(_S.OBSERVE, On.WAIT),
    ("POST", "/v1/waits/{ref}/complete"): Need(_S.OPERATE, On.WAIT),
    ("GET", "/v1/queues"): Need(_S.OBSERVE),
    ("PATCH", "/v1/queues/{name}"): Need(_S.OPERATE),
    ("GET", "/v1/hooks"): Need(_S.ADMIN),
    ("POST", "/v1/hooks"): Need(_S.ADMIN),
    ("DELETE", "/v1/hooks/{ref}"): Need(_S.ADMIN),
    ("POST", "/v1/webhook-secrets"): Need(_S.ADMIN),
    ("GET", "/v1/schedules"): Need(_S.OBSERVE),
    ("PUT", "/v1/schedules/{name}"): Need(_S.OPERATE),
    ("PATCH", "/v1/schedules/{name}"): Need(_S.OPERATE),
    ("DELETE", "/v1/schedules/{name}"): Need(_S.OPERATE),
    ("POST", "/v1/query"): Need(_S.QUERY),
    ("GET", "/v1/queries"): Need(_S.QUERY),
    ("PUT", "/v1/queries/{name}"): Need(_S.QUERY),
    ("DELETE", "/v1/queries/{name}"): Need(_S.QUERY),
    ("GET", "/v1/egress"): Need(_S.OBSERVE, On.WAITS),
    ("GET", "/v1/egress/rules"): Need(_S.OBSERVE),
    ("POST", "/v1/egress/test"): Need(_S.OBSERVE),
    ("GET", "/v1/keys"): Need(_S.ADMIN),
    ("POST", "/v1/keys"): Need(_S.ADMIN),
    ("DELETE", "/v1/keys/{ref}"): Need(_S.ADMIN),
    ("GET", "/v1/secrets"): Need(_S.ADMIN),
    ("PUT", "/v1/secrets/{name}"): Need(_S.ADMIN),
    ("POST", "/v1/secrets/{name}/rotate"): Need(_S.ADMIN),
    ("DELETE", "/v1/secrets/{name}"): Need(_S.ADMIN),
    ("GET", "/v1/secret-changes"): Need(_S.ADMIN),
    ("POST", "/v1/tokens"): Need(_S.OPERATE),
    ("POST", "/v1/dashboard/links"): Need(_S.ADMIN),
    ("POST", "/v1/shutdown"): Need(_S.ADMIN),
}


class Keyed:
    """ASGI middleware of what can be reached by others than the server's user: a request without
    a valid key gets 401, whatever it asks for."""

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            grant = await self._keys.recognize(_bearer(scope))
        except Unauthorized as error:
            _refused(scope["method"], scope["path"], _whence(scope), error)
            response = refuse(error, {"www-authenticate": "Bearer"})
            await response(scope, receive, send)
            return
        await self._app({**scope, _GRANT: grant}, receive, send)


def _bearer(scope: Scope) -> str:
    headers: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not headers:
        raise Unauthorized("this needs a key", hint="Send it: Authorization: Bearer torpor_…")
    kind, _, key = headers[0].decode("latin-1").partition(" ")
    if len(headers) > 1 or kind.lower() != "bearer":
        raise Unauthorized("this needs exactly one key, as Authorization: Bearer torpor_…")
    return key.strip()


def grant(request: Request) -> Grant:
    """What whoever asks may do."""
    found: Grant = request.scope.get(_GRANT, LOCAL)
    return found


def who(request: Request) -> str:
    """Who asks, for a log."""
    return grant(request).who


def origin(request: Request) -> str:
    """Who asks and from where: what a client cannot say otherwise."""
    by = grant(request)
    return by.who if by is LOCAL else f"{by.who}, from {_whence(request.scope)}"


async def admit(request: Request) -> None:
    """Raises Forbidden, and NotFound where there is no such run or wait."""
    given = grant(request)
    path = _CONVERTER.sub("}", request.scope["route"].path)
    try:
        need = ROUTES.get((request.method, path))
        if need is None and given is LOCAL:
            return
        if need is None:
            raise Forbidden(f"{request.method} {path} is not available to keys")
        given.require(need.scope)
        if given.restricted:
            await _require(given, need.on, request)
    except Forbidden as error:
        _refused(request.method, request.url.path, given.who, error)
        raise


async def _require(given: Grant, on: On, request: Request) -> None:
    service = service_of(request)
    match on:
        case On.RUN:
            run = await service.runs.find(request.path_params["ref"])
            given.require_run(run["id"], run["agent"])
        case On.WAIT:
            wait = await service.waits.get(request.path_params["ref"])
            run = await service.runs.find(wait["run"])
            given.require_wait(wait["id"], run["id"], run["agent"])
        case On.WAITS if request.query_params.get("run"):
            run = await service.runs.find(request.query_params["run"])
            given.require_run(run["id"], run["agent"])
        case On.RUNS:
            given.require_agent(request.query_params.get("agent"))
        case On.START:
            given.require_agent(_agent(await request.body()))
        case On.NOTHING:
            pass
        case _:
            given.require_all()


def _agent(body: bytes) -> str | None:
    try:
        request = json.loads(body)
    except ValueError:
        return None
    agent = request.get("agent") if isinstance(request, dict) else None
    return agent if isinstance(agent, str) else None


def whence(scope: Scope) -> str:
    """From which address, over TCP, a request comes; "" on the local socket."""
    client = scope.get("client")
    return f"{client[0]}" if client else ""


def _whence(scope: Scope) -> str:
    return whence(scope) or "somebody"


def _refused(method: str, path: str, who: str, error: Exception) -> None:
    log.warning("refused %s %s to %s: %s", method, ascii(path[:200]), who, error)
