"""What a browser POSTs: one call of the service each, then a page. `guard` has read the form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor.control.forking import Wanted
from torpor.dashboard.guard import COOKIE
from torpor.dashboard.pages import service_of
from torpor.dashboard.sessions import Sessions
from torpor.model.errors import Invalid

BY = "dashboard"


def form_of(request: Request) -> Mapping[str, str]:
    form: Mapping[str, str] = request.scope["torpor.form"]
    return form


def _go(request: Request, to: str) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"hx-redirect": to})
    return RedirectResponse(to, 303)


async def complete(request: Request) -> Response:
    form = form_of(request)
    verdict = form.get("verdict", "")
    if verdict not in ("", "approve", "deny"):
        raise Invalid(f"the verdict is approve or deny, not {verdict!r}")
    answered = await service_of(request).complete(
        request.path_params["ref"],
        answer(form.get("data", "")),
        None if not verdict else verdict == "approve",
        form.get("note") or None,
        BY,
    )
    return _go(request, form_back(form, f"/ui/runs/{answered['run']}"))


def answer(text: str) -> Any:
    """What somebody typed: JSON if it is some, else text. Nothing is null."""
    if not text.strip():
        return None
    try:
        value = json.loads(text)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError):
        return text
    return value


def form_back(form: Mapping[str, str], default: str) -> str:
    """Where the form was: a path of ours, never another site."""
    back = form.get("back", "")
    return back if back in ("/ui/waits",) else default


async def cancel(request: Request) -> Response:
    run = await service_of(request).cancel(request.path_params["ref"])
    return _go(request, f"/ui/runs/{run['id']}")


async def retry(request: Request) -> Response:
    run = await service_of(request).retry(request.path_params["ref"], None)
    return _go(request, f"/ui/runs/{run['id']}")


async def fork(request: Request) -> Response:
    at = form_of(request).get("at", "")
    if at and not (at.isascii() and at.isdecimal() and len(at) <= 15):
        raise Invalid(f"a place in a log is a number, not {at!r}")
    wanted = Wanted(at=int(at) if at else None)
    run = await service_of(request).fork(request.path_params["ref"], wanted)
    return _go(request, f"/ui/runs/{run['id']}")


async def start(request: Request) -> Response:
    form = form_of(request)
    given = answer(form.get("input", "")) or {}
    if not isinstance(given, dict):
        raise Invalid("the input is a JSON object, with the agent's arguments by name")
    run = await service_of(request).start(
        request.path_params["version"], form.get("agent") or None, given, None
    )
    return _go(request, f"/ui/runs/{run['id']}")


async def collect(request: Request) -> Response:
    await service_of(request).gc(False)
    return _go(request, "/ui/storage")


async def log_out(request: Request) -> Response:
    sessions: Sessions = request.app.state.sessions
    sessions.log_out(request.cookies.get(COOKIE, ""))
    response = _go(request, "/ui/login")
    response.delete_cookie(COOKIE, path="/ui", httponly=True, samesite="strict")
    return response
