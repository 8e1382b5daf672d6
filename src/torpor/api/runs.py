"""Runs over HTTP: started, found, ended, continued as others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Header, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field, model_validator

from torpor.api import access
from torpor.api.routing import Router, Uses, gives, next_page
from torpor.core.access import Grant
from torpor.core.errors import Invalid
from torpor.core.starting import DELAY_S_MAX, PRIORITY_MAX, Start
from torpor.core.states import RunState
from torpor.service import runs as shapes
from torpor.service.runs import Deleted, Run, RunDetail, RunFilter, RunRequest
from torpor.web.problems import Json
from torpor.web.requests import (
    AnyJson,
    EngineName,
    Env,
    HeaderText,
    JsonObject,
    ShortText,
    Strict,
    Text,
    split,
)


def _states(text: str) -> str:
    known = [state.value for state in RunState]
    unknown = [part for part in text.split(",") if part not in known]
    if unknown:
        raise ValueError(f"unknown state {', '.join(unknown)}; known are {', '.join(known)}")
    return text


class StartRequest(Strict):
    version: ShortText | None = Field(
        default=None, description="by default the agent's current version"
    )
    agent: ShortText | None = Field(
        default=None,
        description="an agent of the version. Without a version: NAME, "
        "NAME:AGENT, or AGENT if only one file has it. NAME may "
        "also be where the file comes from, or the end of that",
    )
    engine: EngineName | None = Field(
        default=None,
        description=("for an agent by name: by default what its file says, or else the server's"),
    )
    input: JsonObject = Field(default={})
    files: dict[Text, ShortText] = Field(
        default={},
        description=("files for the agent's working directory: path → digest of an upload"),
    )
    id_key: ShortText | None = Field(
        default=None, description=("idempotency key: the same key again is the same run")
    )
    id_key_for_s: float | None = Field(
        default=None,
        gt=0,
        le=DELAY_S_MAX,
        description=("after this time the key may start another run"),
    )
    queue: ShortText | None = Field(default=None, description=("by default the agent's own"))
    key: ShortText | None = Field(
        default=None, description=("counts for the queue's limit per key")
    )
    priority: int = Field(default=0, ge=-PRIORITY_MAX, le=PRIORITY_MAX)
    delay_s: float = Field(default=0.0, ge=0, le=DELAY_S_MAX)
    expires_s: float | None = Field(
        default=None,
        ge=0,
        le=DELAY_S_MAX,
        description=("cancel the run if it has not started by then"),
    )

    env: Env = Field(default={}, description="environment variables of the run; not for secrets")

    @model_validator(mode="after")
    def _named(self) -> StartRequest:
        if self.version is None and self.agent is None:
            raise ValueError("name an agent or a version")
        return self

    def run(self, id_key: str | None, by: Grant) -> RunRequest:
        """Raises Invalid."""
        start = Start(
            self.queue,
            self.key,
            self.priority,
            self.delay_s,
            self.expires_s,
            self.id_key_for_s,
            self.env,
        )
        return RunRequest(
            self.input,
            version=self.version,
            agent=self.agent,
            engine=self.engine,
            id_key=id_key,
            start=start.check(),
            files=self.files,
            by=by,
        )


class ForkRequest(Strict):
    at: Annotated[int, Field(ge=0, le=2**53)] | ShortText | None = Field(
        default=None,
        description="a position in the run's log, or a snapshot; by default "
        "the end of the log, or the last of the results to set",
    )
    input: JsonObject | None = Field(
        default=None, description=("another input; the fork then starts at the beginning")
    )
    version: ShortText | None = Field(default=None, description=("another version of the agent"))
    set: dict[Annotated[str, Field(max_length=400)], AnyJson] = Field(
        default={},
        max_length=1000,
        description=("operation → the result to replace its recorded one"),
    )


class RetryRequest(Strict):
    version: ShortText | None = Field(default=None, description=("another version of the agent"))


class UpgradeRequest(Strict):
    version: ShortText | None = None


class ReloadRequest(Strict):
    version: ShortText
    fresh: bool = Field(default=False, description=("start over, without what was recorded"))


class RunsQuery(Strict):
    states: Annotated[str, AfterValidator(_states)] | None = Field(
        default=None, description="comma separated"
    )
    limit: int = Field(default=50, ge=1, le=1000)
    before: ShortText | None = Field(default=None, description="only runs older than this one")
    agent: ShortText | None = Field(default=None, description="only runs of this agent")
    text: ShortText | None = Field(
        default=None, description="only runs whose id, agent, input, result or error has this text"
    )


OnceKey = Annotated[
    HeaderText | None, Header(description=("the same key again starts no other run"))
]

router = Router()


@router.post("/runs", status_code=201)
async def start(
    request: Request, body: StartRequest, service: Uses, idempotency_key: OnceKey = None
) -> Run:
    """Start a run. If its `Idempotency-Key` (or `id_key`, which is the same) was used before, this
    returns the run that was started then.
    """
    if idempotency_key is not None and body.id_key not in (None, idempotency_key):
        raise Invalid("Idempotency-Key and id_key are two keys", hint=("Send only one of them."))
    return await service.runs.start(body.run(body.id_key or idempotency_key, access.grant(request)))


@router.get("/runs", responses=gives(Sequence[Run]))
async def runs(query: Annotated[RunsQuery, Query()], request: Request, service: Uses) -> Json:
    """List runs, newest first. If there are more, `Link: <…>; rel="next"` leads to them."""
    found = await service.runs.list(
        RunFilter(split(query.states), query.limit, query.before, query.agent, query.text)
    )
    more = len(found) == query.limit
    return Json(found, headers=next_page(request, more, found, "before", "id"))


@router.get("/runs/{ref}")
async def run(ref: str, service: Uses) -> RunDetail:
    """One run, with its waits, cost and files."""
    return await service.runs.get(ref)


@router.get("/runs/{ref}/results/{op:path}", response_class=StreamingResponse)
async def result(ref: str, op: str, service: Uses) -> StreamingResponse:
    """An operation's result, whole and however large: JSON, or the bytes that a step returned."""
    form, content = await service.runs.result(ref, op)
    media = "application/json" if form == "json" else "application/octet-stream"
    return StreamingResponse(content, media_type=media)


@router.post("/runs/{ref}/cancel")
async def cancel(ref: str, service: Uses) -> Run:
    """Cancel a run. An agent that is awake has ten seconds to clean up."""
    return await service.runs.cancel(ref)


@router.post("/runs/{ref}/fork", status_code=201)
async def fork(request: Request, ref: str, body: ForkRequest, service: Uses) -> Run:
    """Start a new run from any point of this run's log."""
    by = access.grant(request)
    plan = shapes.ForkRequest(body.at, body.input, body.version, body.set, by=by)
    return await service.runs.fork(ref, plan)


@router.post("/runs/{ref}/retry", status_code=201)
async def retry(ref: str, body: RetryRequest, service: Uses) -> Run:
    """Fork a failed or cancelled run. Everything that it recorded is kept, except what it failed
    at, which is tried again.
    """
    return await service.runs.retry(ref, body.version)


@router.post("/runs/{ref}/upgrade")
async def upgrade(ref: str, body: UpgradeRequest, service: Uses) -> Run:
    """Move a waiting run to another version of its agent, by default the current one."""
    return await service.runs.upgrade(ref, body.version)


@router.post("/runs/{ref}/reload", status_code=201)
async def reload(ref: str, body: ReloadRequest, service: Uses) -> RunDetail:
    """Fork a run, ended or not, onto another version of its agent. The fork takes the run's place.

    It shares the log up to the first step whose code differs, and replays it. Where it does
    something else than the log says, it goes on without the rest. `forked` says how many operations
    were `kept` and which one is done `again`. An unfinished run is cancelled at once, without
    cleaning up.
    """
    return await service.runs.reload(ref, body.version, fresh=body.fresh)


@router.delete("/runs/{ref}")
async def delete(ref: str, service: Uses) -> Deleted:
    """Delete an ended run for good, with its log, waits, snapshots and keys. 409 if it has not
    ended, or if other runs share its log.
    """
    return await service.runs.delete(ref)
