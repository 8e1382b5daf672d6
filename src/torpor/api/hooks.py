"""Webhooks: those that others send in, and the secrets that ours are signed with.

`router` is for who runs this host; `public` is where the messages come in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, BaseModel, Field
from starlette.exceptions import HTTPException

from torpor.control.service.hooks import Unsigned
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, ShortText, Strict, sound

Object = dict[str, Any]


class HookRequest(Strict):
    agent: ShortText = Field(description="a deployed agent: FILE, FILE:NAME or NAME")
    event: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)] | None = (
        Field(
            default=None,
            description="each message is this event for a run; without it, each starts a run",
        )
    )
    run_at: ShortText | None = Field(
        default=None, description="where a message names its run, such as data.run"
    )
    into: ShortText | None = Field(
        default=None,
        description="pass the whole message as this parameter; without it, as the input",
    )


class HooksQuery(Strict):
    all: bool = Field(default=False, description="include revoked ones")


class UrlRequest(Strict):
    url: Annotated[str, Field(max_length=2000), AfterValidator(sound)]


class UrlSecret(BaseModel):
    url: str
    secret: str


class Hook(BaseModel):
    id: str
    agent: str
    event: str | None
    run_at: str | None
    into: str | None
    created_at: float
    revoked_at: float | None
    url: str


class CreatedHook(Hook):
    secret: str = Field(description="shown only this once")


class Hooks(Protocol):
    async def create(
        self, agent: str, event: str | None, run_at: str | None, into: str | None
    ) -> Object: ...

    async def list(self, revoked: bool) -> list[Object]: ...

    async def revoke(self, ref: str) -> Object: ...

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Object: ...


class Service(Protocol):
    @property
    def hooks(self) -> Hooks: ...

    async def webhook_secret(self, url: str) -> Object: ...


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Uses = Annotated[Service, Depends(_service)]

router = APIRouter(prefix="/v1", responses=PROBLEMS)
public = APIRouter()


@router.post("/hooks", status_code=201, responses={201: {"model": CreatedHook}})
async def create(body: HookRequest, service: Uses) -> Json:
    """Let others start runs of an agent, or send events to them. The secret is shown only this
    once.
    """
    made = await service.hooks.create(body.agent, body.event, body.run_at, body.into)
    return Json(made, status_code=201)


@router.get("/hooks", responses={200: {"model": list[Hook]}})
async def hooks(query: Annotated[HooksQuery, Query()], service: Uses) -> Json:
    """List hooks."""
    return Json(await service.hooks.list(query.all))


@router.delete("/hooks/{ref}", responses={200: {"model": Hook}})
async def revoke(ref: str, service: Uses) -> Json:
    """Revoke a hook: its messages are refused from now on."""
    return Json(await service.hooks.revoke(ref))


@router.post("/webhook-secrets", responses={200: {"model": UrlSecret}})
async def secret(body: UrlRequest, service: Uses) -> Json:
    """The secret that signs torpor's messages to a URL, by Standard Webhooks."""
    return Json(await service.webhook_secret(body.url))


# Not among what a key opens (`torpor.api.access`): a message is let in by its signature.
@public.post("/hooks/{hook}", status_code=202, include_in_schema=False)
async def receive(hook: str, request: Request) -> Json:
    """Receive a message, signed by Standard Webhooks. The same webhook-id again changes nothing."""
    service = _service(request)
    try:
        taken = await service.hooks.receive(hook, request.headers, await request.body())
    except Unsigned as error:
        raise HTTPException(401, str(error)) from error
    return Json(taken, status_code=202)
