"""What a browser POSTs: one call of the service each, then a page. `guard` has read the form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from torpor.core.durations import seconds
from torpor.core.errors import Invalid
from torpor.core.schedules import Missed, Overlap
from torpor.core.secrets import Author
from torpor.dashboard import answering
from torpor.dashboard.guard import COOKIE
from torpor.dashboard.pages import service_of
from torpor.dashboard.sessions import Sessions
from torpor.service.queues import QueueChanges
from torpor.service.runs import ForkRequest, RunRequest
from torpor.service.schedules import ScheduleSettings
from torpor.service.waits import Answer
from torpor.web import verdicts

BY = "dashboard"


def form_of(request: Request) -> Mapping[str, list[str]]:
    form: Mapping[str, list[str]] = request.scope["torpor.form"]
    return form


def one(request: Request, name: str) -> str:
    """What was typed into a field; empty if it is not there."""
    return form_of(request).get(name, [""])[0]


def go(request: Request, to: str) -> Response:
    if "hx-request" in request.headers:
        return Response(status_code=204, headers={"hx-redirect": to})
    return RedirectResponse(to, 303)


async def complete(request: Request) -> Response:
    service = service_of(request)
    wait = await service.waits.get(request.path_params["ref"])
    verdict = one(request, "verdict")
    if wait["approve"]:
        data, approved = verdicts.read(wait["kind"], verdict)
    else:
        data, approved = answering.read(wait, form_of(request)), None
    answer = Answer(data, approved, one(request, "note") or None, BY, origin=_origin(request))
    answered = await service.waits.complete(wait["id"], answer)
    return go(request, back(request, f"/ui/runs/{answered['run']}"))


def _origin(request: Request) -> str:
    return f"the dashboard, from {request.client.host}" if request.client else "the dashboard"


async def send(request: Request) -> Response:
    """An event to the run."""
    name, data = one(request, "name"), answering.value(one(request, "data"))
    events = service_of(request).events
    sent = await events.send(request.path_params["ref"], name, data, by=BY)
    return go(request, back(request, f"/ui/runs/{sent['run']}"))


def back(request: Request, default: str) -> str:
    """Where the form was: a path of ours, never another site."""
    return "/ui/waits" if one(request, "back") == "/ui/waits" else default


async def cancel(request: Request) -> Response:
    run = await service_of(request).runs.cancel(request.path_params["ref"])
    return go(request, f"/ui/runs/{run['id']}")


async def delete(request: Request) -> Response:
    await service_of(request).runs.delete(request.path_params["ref"])
    return go(request, "/ui/runs")


async def retry(request: Request) -> Response:
    run = await service_of(request).runs.retry(request.path_params["ref"])
    return go(request, f"/ui/runs/{run['id']}")


async def fork(request: Request) -> Response:
    at = one(request, "at")
    if at and not (at.isascii() and at.isdecimal() and len(at) <= 15):
        raise Invalid(f"a position in a log must be a number, not {at!r}")
    given = _input(request) if "input" in form_of(request) else None
    plan = ForkRequest(at=int(at) if at else None, input=given)
    run = await service_of(request).runs.fork(request.path_params["ref"], plan)
    return go(request, f"/ui/runs/{run['id']}")


async def start(request: Request) -> Response:
    service, version = service_of(request), request.path_params["version"]
    found = await service.agents.get(one(request, "agent") or None, version)
    if "input" in form_of(request):
        given = _input(request)
    else:
        given = answering.read_input(found["agent"], form_of(request))
    wanted = RunRequest(given, version=version, agent=found["agent"]["name"])
    run = await service.runs.start(wanted)
    return go(request, f"/ui/runs/{run['id']}")


def _input(request: Request) -> dict[str, Any]:
    given = answering.value(one(request, "input"))
    if given is not None and not isinstance(given, dict):
        raise Invalid("the input must be a JSON object with the agent's arguments by name")
    return given or {}


async def queue(request: Request) -> Response:
    """Pause it, let it go on, or change its limits: what the form has."""
    changes = QueueChanges()
    if "paused" in form_of(request):
        changes["paused"] = one(request, "paused") == "true"
    if "concurrency" in form_of(request):
        changes["concurrency"] = _limit(request, "concurrency")
    if "per_key" in form_of(request):
        changes["per_key"] = _limit(request, "per_key")
    if "rate" in form_of(request):
        changes["rate"] = one(request, "rate").strip() or None
    await service_of(request).queues.update(request.path_params["name"], changes)
    return go(request, "/ui/queues")


def _limit(request: Request, name: str) -> int | None:
    text = one(request, name).strip()
    if text and not (text.isascii() and text.isdecimal() and 0 < int(text) <= 1_000_000):
        raise Invalid(f"{name} must be a number from 1 to 1,000,000, or empty for no limit")
    return int(text) if text else None


async def add_schedule(request: Request) -> Response:
    try:
        jitter_s = seconds(one(request, "jitter") or 0)
        priority = int(one(request, "priority") or 0)
    except ValueError as error:
        words = "the jitter must be a duration, and the priority a number"
        raise Invalid(f"{words}: {error}") from None
    settings: ScheduleSettings = {
        "agent": one(request, "agent").strip(),
        "cron": one(request, "cron").strip(),
        "overlap": cast(Overlap, one(request, "overlap").strip()),  # the service checks them
        "missed": cast(Missed, one(request, "missed").strip()),
        "zone": one(request, "zone").strip() or "UTC",
        "input": _input(request),
        "jitter_s": jitter_s,
        "queue": one(request, "queue").strip() or None,
        "priority": priority,
    }
    replace = bool(one(request, "replace"))
    await service_of(request).schedules.add(one(request, "name").strip(), settings, replace=replace)
    return go(request, "/ui/schedules")


async def schedule(request: Request) -> Response:
    """Pause it, let it go on, or remove it."""
    schedules, name = service_of(request).schedules, request.path_params["name"]
    what = one(request, "do")
    if what == "remove":
        await schedules.remove(name)
    elif what in ("pause", "resume"):
        await schedules.pause(name, what == "pause")
    else:
        raise Invalid(f"a schedule can be paused, resumed or removed, not {what!r}")
    return go(request, "/ui/schedules")


async def set_secret(request: Request) -> Response:
    place = one(request, "place")
    await service_of(request).secrets.set(
        one(request, "name").strip(),
        one(request, "value"),
        hosts=_words(request, "hosts"),
        placement={place: one(request, "where")} if place else None,
        agents=_words(request, "agents"),
        author=Author(BY),
    )
    return go(request, "/ui/secrets")


async def secret(request: Request) -> Response:
    """Give it another value, or remove it."""
    secrets, name = service_of(request).secrets, request.path_params["name"]
    what = one(request, "do")
    if what == "rotate":
        await secrets.rotate(name, one(request, "value"), author=Author(BY))
    elif what == "remove":
        await secrets.remove(name, author=Author(BY))
    else:
        raise Invalid(f"a secret can be rotated or removed, not {what!r}")
    return go(request, "/ui/secrets")


def _words(request: Request, name: str) -> list[str] | None:
    return one(request, name).replace(",", " ").split() or None


async def collect(request: Request) -> Response:
    await service_of(request).storage.collect(False)
    return go(request, "/ui/storage")


async def log_out(request: Request) -> Response:
    sessions: Sessions = request.app.state.sessions
    sessions.log_out(request.cookies.get(COOKIE, ""))
    response = go(request, "/ui/login")
    response.delete_cookie(COOKIE, path="/ui", httponly=True, samesite="strict")
    return response
