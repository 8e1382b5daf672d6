"""What a browser GETs. Each page asks the service and fills a template in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)

from torpor.core.errors import Invalid, NotFound
from torpor.core.schedules import MISSED, OVERLAPS
from torpor.core.states import FINAL, RunState
from torpor.dashboard import life, render
from torpor.dashboard.guard import COOKIE
from torpor.dashboard.sessions import SESSION_S, Sessions
from torpor.dashboard.terminal import Line, interleaved, last_of
from torpor.dashboard.timeline import Timeline
from torpor.engine import registry
from torpor.engine.capabilities import NOT_ISOLATED
from torpor.service.agents import Agent
from torpor.service.runs import Run, RunDetail, RunFilter
from torpor.service.service import Service
from torpor.service.waits import WaitFilter
from torpor.web.download import Content, download, text

RUNS = 50
WAITS = 50
# Entries of a log on one page, and moves of a run on its strip.
ENTRIES = 300
MOVES_MAX = 5000
TEXT_CHARS_MAX = 200
ARTIFACTS = 50
# Of what a run printed, in one piece.
PRINTED_ENTRIES = 500
PRINTED_CHARS = 60_000
VIEWS = ("timeline", "output", "about")  # of a run
DEV = "dev"  # the queue of `torpor dev`


class Kind(NamedTuple):
    """What a page of waits shows."""

    title: str
    kinds: list[str] | None
    approve: bool | None = None


KINDS = {
    "": Kind("to answer", ["wait", "permission", "doubt", "event"]),
    "approval": Kind("approvals", ["wait"], True),
    "permission": Kind("permissions", ["permission"]),
    "question": Kind("questions", ["wait"], False),
    "event": Kind("events", ["event"]),
    "doubt": Kind("in doubt", ["doubt"]),
    "sleep": Kind("sleeping", ["sleep"]),
    "child": Kind("child runs", ["child"]),
    "all": Kind("all", None),
}
STATES = [state.value for state in RunState]


def service_of(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def action(request: Request) -> Response:
    """All of what a permission is asked for."""
    ref = request.path_params["ref"]
    return text(f"{ref}.txt", await service_of(request).waits.action(ref))


async def home(request: Request) -> Response:
    return RedirectResponse("/ui/runs", 307)


async def login(request: Request) -> Response:
    """Where a link leads. The page that comes goes on by itself: a cookie that is kept from other
    sites is not sent by a redirect on the way from one."""
    sessions: Sessions = request.app.state.sessions
    session = sessions.log_in(request.query_params.get("token", ""))
    if session is None:
        return render.page(request, "refused.html", status=401, code=401)
    run = request.query_params.get("run", "")
    page = f"/ui/runs/{run}?follow=1" if render.RUN.fullmatch(run) else "/ui/runs"
    response = render.page(request, "welcome.html", page=page)
    response.set_cookie(
        COOKIE,
        session.id,
        max_age=int(SESSION_S),
        path="/ui",
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


async def runs(request: Request) -> Response:
    service, query = service_of(request), request.query_params
    states = [state for state in query.getlist("state") if state in STATES]
    agent, text, before = query.get("agent"), query.get("text"), query.get("before")
    _check_text(text or "")
    found, totals, agents = await asyncio.gather(
        service.runs.list(
            RunFilter(states or None, RUNS + 1, before or None, agent or None, text or None)
        ),
        service.totals(),
        service.agents.list(),
    )
    given = {"state": states, "agent": agent or "", "text": text or ""}
    narrowed = {key: value for key, value in given.items() if value}
    older = None
    if len(found) > RUNS:
        older = urlencode(narrowed | {"before": found[RUNS - 1]["id"]}, doseq=True)
    return render.page(
        request,
        "rows.html" if "hx-request" in request.headers else "runs.html",
        at="runs",
        runs=found[:RUNS],
        older=older,
        newest=urlencode(narrowed, doseq=True) if before else None,
        totals=totals,
        states=STATES,
        filters=given,
        narrowed=bool(narrowed),
        agents=_names(agents),
    )


async def run(request: Request) -> Response:
    service, ref = service_of(request), request.path_params["ref"]
    found = await service.runs.get(ref)
    if found["id"] != ref:
        return RedirectResponse(f"/ui/runs/{found['id']}", 307)
    newer, follow = await newest(service, found), "follow" in request.query_params
    if newer and follow:
        return RedirectResponse(f"/ui/runs/{newer['id']}?follow=1", 307)
    view = request.query_params.get("view", "")
    after = place(request, "after", max(0, found["last_seq"] - ENTRIES))
    drawn, (entries, _), taken, published, totals, prices = await asyncio.gather(
        _drawn(service, found),
        service.logs.read(found["id"], after, ENTRIES, None),
        service.snapshots.list(found["id"]),
        service.artifacts.list(found["id"]),
        service.totals(),
        service.prices(),
    )
    last = entries[-1]["seq"] if entries else after
    printed: list[tuple[str, Line]] = []
    printed_before = False
    if view == "output":
        printed, printed_before = await _printed(service, found["id"])
    return render.page(
        request,
        "run.html",
        at="runs",
        view=view if view in VIEWS else VIEWS[0],
        follow=follow,
        newer=newer,
        printed=printed,
        printed_before=printed_before,
        run=found,
        life=drawn,
        items=list(Timeline.of(entries, prices).items.values()),
        snapshots=taken,
        artifacts=published[:ARTIFACTS],
        artifacts_more=max(0, len(published) - ARTIFACTS),
        totals=totals,
        after=after,
        earlier=max(0, after - ENTRIES) if after else None,
        later=last if last < found["last_seq"] else None,
        live=f"/ui/runs/{found['id']}/live?start={after}&after={last}",
        ended=found["state"] in FINAL,
    )


async def head(request: Request) -> Response:
    """The part of a run's page above its timeline, which changes with its state."""
    service = service_of(request)
    found = await service.runs.get(request.path_params["ref"])
    drawn, newer = await _drawn(service, found), await newest(service, found)
    if newer and "follow" in request.query_params:
        to = f"/ui/runs/{newer['id']}?follow=1"
        return Response(status_code=204, headers={"hx-redirect": to})
    return render.page(request, "head.html", run=found, life=drawn, newer=newer)


async def entry(request: Request) -> Response:
    """One entry of a log, whole."""
    seq = int(request.path_params["seq"])
    found, _ = await service_of(request).logs.read(request.path_params["ref"], seq - 1, 1, None)
    if not found or found[0]["seq"] != seq:
        raise NotFound(f"there is no entry {seq}")
    return PlainTextResponse(json.dumps(found[0], indent=2))


async def output(request: Request) -> Response:
    """All that an agent printed to one stream, as a file: never a page of this site."""
    ref, stream = request.path_params["ref"], request.path_params["stream"]
    if stream not in ("stdout", "stderr"):
        raise NotFound(f"there is no output stream {stream!r}")
    content = await service_of(request).logs.output(ref, stream)
    headers = {"content-disposition": f'attachment; filename="{stream}.txt"'}
    return StreamingResponse(content, headers=headers, media_type="text/plain; charset=utf-8")


async def artifact(request: Request) -> Response:
    """An artifact as a file: never a page of this site."""
    ref, name = request.path_params["ref"], request.path_params["name"]
    text = request.query_params.get("version", "")
    version = place(request, "version", 0) if text else None
    found = await service_of(request).artifacts.content(ref, name, version)
    return await download(Content.of(*found), request.headers)


async def given(request: Request) -> Response:
    """A file that a run was given, as a file."""
    ref, path = request.path_params["ref"], request.path_params["path"]
    found = await service_of(request).files.content(ref, path)
    return await download(Content.given(*found), request.headers)


async def waits(request: Request) -> Response:
    service, query = service_of(request), request.query_params
    given = {name: query.get(name, "") for name in ("kind", "agent", "text")}
    _check_text(given["text"])
    kind = KINDS.get(given["kind"], KINDS[""])
    found, totals, agents = await asyncio.gather(
        service.waits.list(
            WaitFilter(
                limit=WAITS + 1,
                after=query.get("after") or None,
                kinds=kind.kinds,
                approve=kind.approve,
                agent=given["agent"] or None,
                text=given["text"] or None,
            )
        ),
        service.totals(),
        service.agents.list(),
    )
    narrowed = {name: value for name, value in given.items() if value}
    more = len(found) > WAITS
    return render.page(
        request,
        "waits.html",
        at="waits",
        waits=found[:WAITS],
        more=urlencode(narrowed | {"after": found[WAITS - 1]["id"]}) if more else None,
        kinds=KINDS,
        filters=given,
        narrowed=bool(narrowed),
        agents=_names(agents),
        totals=totals,
    )


async def agents(request: Request) -> Response:
    service = service_of(request)
    found, totals = await asyncio.gather(service.agents.list(), service.totals())
    return render.page(
        request,
        "agents.html",
        at="agents",
        files=_files(found),
        isolates=registry.isolates,
        not_isolated=NOT_ISOLATED,
        totals=totals,
    )


def _check_text(text: str) -> None:
    if len(text) > TEXT_CHARS_MAX:
        raise Invalid(f"the text to search for has more than {TEXT_CHARS_MAX} characters")


def _names(versions: Sequence[Agent]) -> list[str]:
    return sorted({agent["name"] for version in versions for agent in version["agents"]})


def _files(versions: Sequence[Agent]) -> list[dict[str, Any]]:
    """What is deployed: {name, origin, versions}, what is current first, isolated before not."""
    files: dict[str, dict[str, Any]] = {}
    isolated_first = sorted(versions, key=lambda version: not registry.isolates(version["engine"]))
    for version in isolated_first:
        for one in version["current"]:
            file = {"name": one["name"], "origin": one["origin"], "versions": []}
            files.setdefault(one["origin"] or one["name"], file)["versions"].append(version)
    for version in versions:
        if not version["current"]:  # with what has its name now
            named = [file for file in files.values() if file["name"] == version["name"]]
            file = {"name": version["name"], "origin": "", "versions": []}
            (named or [files.setdefault(f"older {version['name']}", file)])[0]["versions"].append(
                version
            )
    return sorted(files.values(), key=lambda file: (file["name"], file["origin"]))


async def queues(request: Request) -> Response:
    service = service_of(request)
    found, totals = await asyncio.gather(service.queues.list(), service.totals())
    return render.page(request, "queues.html", at="queues", queues=found, totals=totals)


async def schedules(request: Request) -> Response:
    service = service_of(request)
    found, agents, totals = await asyncio.gather(
        service.schedules.list(), service.agents.list(), service.totals()
    )
    names = _names(agents)
    return render.page(
        request,
        "schedules.html",
        at="schedules",
        schedules=found,
        names=names,
        overlaps=OVERLAPS,
        misses=MISSED,
        totals=totals,
    )


async def secrets(request: Request) -> Response:
    service = service_of(request)
    found, totals = await asyncio.gather(service.secrets.list(), service.totals())
    return render.page(request, "secrets.html", at="secrets", secrets=found, totals=totals)


async def storage(request: Request) -> Response:
    service = service_of(request)
    health, totals, found = await asyncio.gather(
        service.health(), service.totals(), service.agents.list()
    )
    return render.page(
        request,
        "storage.html",
        at="storage",
        health=health,
        totals=totals,
        templates=[each for each in found if each["template_bytes"]],
    )


async def reclaimable(request: Request) -> Response:
    """What a collection would do: it looks at every file, so it is asked for apart."""
    report = await service_of(request).storage.collect(True)
    return render.page(request, "reclaimable.html", report=report)


async def _drawn(service: Service, run: Run) -> life.Life | None:
    shared = run["origin_seq"] or 0
    moves = await service.logs.read(run["id"], shared, MOVES_MAX, list(life.KINDS))
    return life.read(moves.entries, time.time())


async def newest(service: Service, run: RunDetail) -> Run | None:
    """The run that has taken the place of this one: a retry, or what `torpor dev` made of it when
    its code was saved, or of that. None if none has."""
    members = {member["id"]: member for member in run["family"]}
    at: Run = run
    while (after := at["successor"] or await _reloaded(service, at, members)) in members:
        at = members[after]
    return None if at["id"] == run["id"] else at


async def _reloaded(service: Service, run: Run, members: Mapping[str, Run]) -> str | None:
    """What `torpor dev` made of a run that had ended: that names no successor."""
    if run["queue"] != DEV:
        return None
    forks = [m["id"] for m in members.values() if m["origin"] == run["id"] and m["queue"] == DEV]
    for fork in reversed(forks):
        if ((await service.runs.get(fork))["forked"] or {}).get("how") == "reload":
            return fork
    return None


async def _printed(service: Service, run: str) -> tuple[list[tuple[str, Line]], bool]:
    """The end of what the run printed, by lines, and whether there is more before."""
    place = await service.logs.begin(run, ["output"], PRINTED_ENTRIES, None)
    page = await service.logs.read(run, place, PRINTED_ENTRIES, ["output"])
    found = [*page.entries]
    while page.more:
        page = await service.logs.read(run, page.entries[-1]["seq"], PRINTED_ENTRIES, ["output"])
        found += page.entries
    chunks = [(str(each["data"].get("stream")), str(each["data"].get("text"))) for each in found]
    kept = last_of(chunks, PRINTED_CHARS)
    return interleaved(kept), place > 0 or len(kept) < len(chunks)


def place(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise Invalid(f"{name}: a position in a log must be a number, not {text!r}")
    return int(text)


def problem(request: Request, details: Mapping[str, Any]) -> HTMLResponse:
    """An error as a page; for a form that a script sent, as a part of the page that is there."""
    name = "trouble.html" if "hx-request" in request.headers else "problem.html"
    return render.page(request, name, status=details["status"], problem=details)
