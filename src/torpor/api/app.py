"""The endpoints, one line of the service each. Described for people at /docs.

`create_app(service)` gives the application; its `state.stop` is how the server comes to its end
(`torpor.api.stopping`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

import torpor
from torpor.api import (
    access,
    artifacts,
    dashboard,
    deleting,
    events,
    execs,
    files,
    hooks,
    keys,
    limits,
    public,
    queries,
    queues,
    reference,
    release,
    reloads,
    schedules,
    tags,
    upgrades,
)
from torpor.api.query import QueryRequest, Rows
from torpor.api.starting import StartRequest
from torpor.api.stopping import Stop
from torpor.control.service.access import Access
from torpor.control.service.forking import Wanted
from torpor.core.agentfile import AgentSource
from torpor.core.errors import Invalid
from torpor.core.paging import Page
from torpor.core.prices import Prices
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import FINAL, RunState
from torpor.query.ask import Question
from torpor.web import problems, stream
from torpor.web.problems import Json
from torpor.web.shapes import (
    PROBLEMS,
    Agent,
    AgentQuery,
    Backup,
    BackupRequest,
    Collected,
    CompleteRequest,
    Deployment,
    DeployRequest,
    DescribedAgent,
    Entry,
    ExportQuery,
    ForkRequest,
    GcRequest,
    HeaderText,
    Health,
    LogQuery,
    OutputQuery,
    PinRequest,
    RetryRequest,
    Run,
    RunDetail,
    RunsQuery,
    ShortText,
    Snapshot,
    Totals,
    Verified,
    Wait,
    WaitsQuery,
    split,
)

Object = dict[str, Any]


class Service(hooks.Service, Protocol):
    """What the API needs of the control plane. Raises `torpor.core.errors` only.

    `ref` is an id or a unique prefix of one; the shapes of what it gives are in `shapes`.
    """

    @property
    def executing(self) -> execs.Executing: ...

    @property
    def queueing(self) -> queues.Queueing: ...

    @property
    def artifacts(self) -> artifacts.Artifacts: ...

    @property
    def deleting(self) -> deleting.Deleting: ...

    @property
    def access(self) -> Access: ...

    @property
    def files(self) -> files.Files: ...

    @property
    def schedules(self) -> schedules.Schedules: ...

    async def health(self) -> Object: ...

    async def metrics(self) -> Collector: ...

    async def totals(self) -> Object: ...

    async def query(self, question: Question) -> Object: ...

    async def prices(self) -> Prices: ...

    async def saved_queries(self) -> list[Object]: ...

    async def save_query(self, name: str, sql: str) -> Object: ...

    async def delete_query(self, name: str) -> None: ...

    async def deploy(
        self,
        source: AgentSource,
        progress: Callable[[str, str, float | None], None],
        engine: str | None = None,
    ) -> Object:
        """Make (or find) the agent's template for `engine`, by default the server's;
        `progress(stage, message, fraction)` on the way."""
        ...

    async def agents(self) -> list[Object]: ...

    async def agent(self, ref: str | None, version: str | None, engine: str | None) -> Object: ...

    async def retire(self, ref: str) -> Object: ...

    async def start(
        self,
        version: str | None,
        agent: str | None,
        input: Object,
        id_key: str | None,
        start: Start = AT_ONCE,
        *,
        engine: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Object: ...

    async def runs(
        self,
        states: list[str] | None,
        limit: int,
        before: str | None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]: ...

    async def run(self, ref: str) -> Object: ...

    async def entries(self, ref: str, after: int, limit: int, kinds: list[str] | None) -> Page: ...

    async def begin(
        self, ref: str, kinds: list[str] | None, tail: int | None, since: float | None
    ) -> int:
        """The place in the log after which there are only the last `tail` entries of these kinds,
        and only such as are not older than `since`."""
        ...

    def changed(self, run_id: str) -> Awaitable[None]:
        """Resolves at the first append to the run after this call. The caller may cancel it."""
        ...

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        """Form ("json" or "bytes") and content; reading the latter blocks."""
        ...

    async def output(self, ref: str, stream: str, offset: int = 0) -> Iterator[bytes]:
        """Reading what this gives blocks."""
        ...

    async def cancel(self, ref: str) -> Object: ...

    async def fork(self, ref: str, wanted: Wanted) -> Object: ...

    async def retry(self, ref: str, version: str | None) -> Object: ...

    async def snapshots(self, ref: str) -> list[Object]: ...

    async def verify(self, ref: str) -> Object: ...

    async def pin(self, ref: str, snapshot: str, pinned: bool) -> Object: ...

    async def gc(self, dry_run: bool) -> Object: ...

    async def backup(self, directory: str, with_key: bool) -> Object: ...

    async def export(self, ref: str, snapshot: str | None) -> Iterator[bytes]:
        """Reading what this gives blocks."""
        ...

    async def import_run(self, chunks: AsyncIterator[bytes]) -> Object: ...

    async def waits(
        self,
        run: str | None,
        all: bool,
        limit: int | None = None,
        after: str | None = None,
        tag: str | None = None,
        kinds: list[str] | None = None,
        approve: bool | None = None,
        agent: str | None = None,
        text: str | None = None,
    ) -> list[Object]: ...

    async def wait(self, ref: str) -> Object: ...

    async def complete(
        self, ref: str, data: Any, approved: bool | None, note: str | None, by: str | None
    ) -> Object: ...

    async def send(
        self, ref: str, name: str, data: Any, by: str | None, event: str | None
    ) -> Object: ...

    def publish(self, base: str) -> None:
        """This host is reached from outside at `base`: waits have public URLs."""
        ...

    async def linked(self, token: str) -> Object: ...

    async def answer_linked(
        self, token: str, data: Any, approved: bool | None, note: str | None
    ) -> Object: ...

    async def hand_over(self, tell: Callable[[str], None]) -> None:
        """Leave all runs to the next server as they are now; `tell` hears what becomes of each."""
        ...

    async def stop(self) -> None: ...


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _stop(request: Request) -> Stop:
    stop: Stop = request.app.state.stop
    return stop


def _closing(request: Request) -> asyncio.Event:
    return _stop(request).closing


Uses = Annotated[Service, Depends(_service)]
Stopping = Annotated[Stop, Depends(_stop)]
Closing = Annotated[asyncio.Event, Depends(_closing)]

router = APIRouter(prefix="/v1", responses=PROBLEMS)


def _gives(model: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": model}}


OnceKey = Annotated[HeaderText | None, Header(description="the same key again starts no other run")]


def _next(request: Request, more: bool, page: list[Object], after: str, key: str) -> dict[str, str]:
    """Where a page goes on if there may be `more` (RFC 8288)."""
    if not more:
        return {}
    whence = request.url.remove_query_params(["tail", "since"])  # what is last changes
    there = whence.include_query_params(**{after: page[-1][key]})
    return {"link": f'<{there.path}?{there.query}>; rel="next"'}


def _events(lines: AsyncIterator[str], status_code: int = 200) -> StreamingResponse:
    headers = {"cache-control": "no-store"}
    return StreamingResponse(lines, status_code, headers, "text/event-stream")


@router.get("/health", responses=_gives(Health))
async def health(service: Uses) -> Json:
    """Whether the server runs, with its version and engine."""
    return Json(await service.health())


@router.get("/totals", responses=_gives(Totals))
async def totals(service: Uses) -> Json:
    """How many runs, open waits and snapshots there are."""
    return Json(await service.totals())


@router.post("/agents", response_class=StreamingResponse)
async def deploy(
    body: DeployRequest, service: Uses, closing: Closing, request: Request
) -> StreamingResponse:
    """Deploy an agent: make its template. Events: `progress`…, then `deployed` or `error`."""
    limits.forget_body(request)
    work = partial(service.deploy, body.source(), engine=body.engine)
    return _events(stream.progress(work, "deployed", closing))


@router.get("/agents", responses=_gives(list[Agent]))
async def agents(service: Uses) -> Json:
    """List deployed agents."""
    return Json(await service.agents())


@router.get("/agents/{ref:path}", responses=_gives(DescribedAgent))
async def agent(ref: str, service: Uses, query: Annotated[AgentQuery, Query()]) -> Json:
    """The agent that a run by this name would start. `agent.schema` is the JSON Schema of its
    input, if its annotations define one.
    """
    return Json(await service.agent(ref, query.version, query.engine))


@router.delete("/agents", responses=_gives(Deployment))
async def retire(
    service: Uses,
    agent: Annotated[ShortText, Query(description="its name, or where it comes from")],
) -> Json:
    """Retire an agent: its name starts nothing any more. Its runs stay."""
    return Json(await service.retire(agent))


@router.post("/runs", status_code=201, responses=_gives(Run, 201))
async def start(body: StartRequest, service: Uses, idempotency_key: OnceKey = None) -> Json:
    """Start a run. If its `Idempotency-Key` (or `id_key`, which is the same) was used before, this
    returns the run that was started then.
    """
    if idempotency_key is not None and body.id_key not in (None, idempotency_key):
        raise Invalid("Idempotency-Key and id_key are two keys", hint="Send only one of them.")
    key = body.id_key or idempotency_key
    run = await service.start(
        body.version,
        body.agent,
        body.input,
        key,
        body.start(),
        engine=body.engine,
        files=body.files,
    )
    return Json(run, status_code=201)


@router.get("/runs", responses=_gives(list[Run]))
async def runs(query: Annotated[RunsQuery, Query()], request: Request, service: Uses) -> Json:
    """List runs, newest first. If there are more, `Link: <…>; rel="next"` leads to them."""
    states = split(query.states)
    found = await service.runs(states, query.limit, query.before, query.agent, query.text)
    return Json(found, headers=_next(request, len(found) == query.limit, found, "before", "id"))


@router.get("/runs/{ref}", responses=_gives(RunDetail))
async def run(ref: str, service: Uses) -> Json:
    """One run, with its waits, cost and files."""
    return Json(await service.run(ref))


@router.get("/runs/{ref}/log", response_model=None, responses=_gives(list[Entry]))
async def log(
    ref: str,
    query: Annotated[LogQuery, Query()],
    request: Request,
    service: Uses,
    closing: Closing,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Json | StreamingResponse:
    """The run's context log, in pages of about 4 MiB; `Link: <…>; rel="next"` leads to the next
    one. With `follow`, it is a stream of events: `entry`… (its id is the seq), then `end`. Resume
    an interrupted stream with the header `Last-Event-ID`.
    """
    kinds, after = split(query.kinds), query.after
    if query.tail is not None or query.since is not None:
        after = max(after, await service.begin(ref, kinds, query.tail, query.since))
    if not query.follow:
        page = await service.entries(ref, after, query.limit, kinds)
        return Json(page.entries, headers=_next(request, page.more, page.entries, "after", "seq"))
    found = await service.run(ref)
    lines = stream.follow(
        partial(service.entries, found["id"]),
        partial(service.changed, found["id"]),
        after=max(after, stream.seen(last_event_id)),
        kinds=kinds,
        ended=found["state"] if RunState(found["state"]) in FINAL else None,
        closing=closing,
    )
    return _events(lines)


@router.get("/runs/{ref}/results/{op:path}", response_class=StreamingResponse)
async def result(ref: str, op: str, service: Uses) -> StreamingResponse:
    """An operation's result, whole and however large: JSON, or the bytes that a step returned."""
    form, content = await service.result(ref, op)
    media = "application/json" if form == "json" else "application/octet-stream"
    return StreamingResponse(content, media_type=media)


@router.get("/runs/{ref}/output/{stream}", response_class=StreamingResponse)
async def output(
    ref: str,
    stream: Literal["stdout", "stderr"],
    query: Annotated[OutputQuery, Query()],
    service: Uses,
) -> StreamingResponse:
    """Everything that the agent printed, including output beyond its log (`output.beside`)."""
    content = await service.output(ref, stream, query.offset)
    return StreamingResponse(content, media_type="text/plain; charset=utf-8")


@router.post("/runs/{ref}/cancel", responses=_gives(Run))
async def cancel(ref: str, service: Uses) -> Json:
    """Cancel a run. An agent that is awake has ten seconds to clean up."""
    return Json(await service.cancel(ref))


@router.post("/runs/{ref}/fork", status_code=201, responses=_gives(Run, 201))
async def fork(ref: str, body: ForkRequest, service: Uses) -> Json:
    """Start a new run from any point of this run's log."""
    wanted = Wanted(at=body.at, input=body.input, version=body.version, set=body.set)
    return Json(await service.fork(ref, wanted), status_code=201)


@router.post("/runs/{ref}/retry", status_code=201, responses=_gives(Run, 201))
async def retry(ref: str, body: RetryRequest, service: Uses) -> Json:
    """Fork a failed or cancelled run. Everything that it recorded is kept, except what it failed
    at, which is tried again.
    """
    return Json(await service.retry(ref, body.version), status_code=201)


@router.get("/runs/{ref}/snapshots", responses=_gives(list[Snapshot]))
async def snapshots(ref: str, service: Uses) -> Json:
    """List the run's snapshots."""
    return Json(await service.snapshots(ref))


@router.get("/runs/{ref}/verify", responses=_gives(Verified))
async def verify(ref: str, service: Uses) -> Json:
    """Read every byte that the run's snapshots and its template need."""
    return Json(await service.verify(ref))


@router.patch("/runs/{ref}/snapshots/{snapshot}", responses=_gives(Snapshot))
async def pin(ref: str, snapshot: str, body: PinRequest, service: Uses) -> Json:
    """Pin or unpin a snapshot. A pinned one is kept."""
    return Json(await service.pin(ref, snapshot, body.pinned))


@router.get("/runs/{ref}/export", response_class=StreamingResponse)
async def export(
    ref: str, query: Annotated[ExportQuery, Query()], service: Uses
) -> StreamingResponse:
    """Export the run to one file (docs/formats/export.md) that another torpor can import."""
    return StreamingResponse(
        await service.export(ref, query.snapshot), media_type="application/x-tar"
    )


@router.post("/imports", status_code=201, responses=_gives(Run, 201))
async def import_run(request: Request, service: Uses) -> Json:
    """Import an export, which is the request's body. The run goes on from where it was."""
    return Json(await service.import_run(request.stream()), status_code=201)


@router.post("/gc", responses=_gives(Collected))
async def gc(body: GcRequest, service: Uses) -> Json:
    """Remove snapshots that are no longer kept, and files that nothing needs."""
    return Json(await service.gc(body.dry_run))


@router.post("/backups", status_code=201, responses=_gives(Backup, 201))
async def backup(body: BackupRequest, service: Uses) -> Json:
    """Copy everything to a new directory on the server's host, while it is in use."""
    return Json(await service.backup(body.directory, body.key), status_code=201)


@router.get("/waits", responses=_gives(list[Wait]))
async def waits(query: Annotated[WaitsQuery, Query()], service: Uses) -> Json:
    """List waits, newest first."""
    kinds = split(query.kinds)
    found = await service.waits(
        query.run,
        query.all,
        query.limit,
        query.after,
        query.tag,
        kinds,
        agent=query.agent,
        text=query.text,
    )
    return Json(found)


@router.get("/waits/{ref}", responses=_gives(Wait))
async def wait(ref: str, service: Uses) -> Json:
    """One wait."""
    return Json(await service.wait(ref))


@router.post("/waits/{ref}/complete", responses=_gives(Wait))
async def complete(ref: str, body: CompleteRequest, service: Uses) -> Json:
    """Answer a wait. 409 if it was answered before, or has ended in another way; 422 if the answer
    does not fit.
    """
    return Json(await service.complete(ref, body.data, body.approved, body.note, body.by))


@router.post("/query", responses=_gives(Rows))
async def query(body: QueryRequest, service: Uses) -> Json:
    """Run a SELECT over the views of docs/sql.md. It can change nothing."""
    return Json(await service.query(body.question()))


@router.post("/shutdown", status_code=202, response_class=StreamingResponse)
async def shutdown(stop: Stopping) -> StreamingResponse:
    """Stop the server with its machines and processes. Each machine is frozen where it is and goes
    on there at the next start. Events: `progress`…, then `stopped`.
    """

    async def work(tell: Callable[[str, str, float | None], None]) -> Object:
        await stop.ask(lambda words: tell("stop", words, None))
        return {}

    return _events(stream.progress(work, "stopped", stop.closing), status_code=202)


async def metrics(service: Uses) -> Response:
    """For Prometheus, in its text format."""
    return Response(generate_latest(await service.metrics()), media_type=CONTENT_TYPE_LATEST)


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
    app.include_router(router)
    app.include_router(artifacts.router)
    app.include_router(queries.router)
    app.include_router(events.router)
    app.include_router(execs.router)
    app.include_router(files.router)
    app.include_router(queues.router)
    app.include_router(deleting.router)
    app.include_router(schedules.router)
    app.include_router(upgrades.router)
    app.include_router(reloads.router)
    app.include_router(keys.router)
    app.include_router(hooks.router)
    app.add_api_route("/metrics", metrics, response_class=PlainTextResponse)
    reference.install(app)
    dashboard.install(app, service, app.state.stop)
    public.install(app, service)
    return app
