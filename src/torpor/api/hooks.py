"""Webhooks: those that others send in, and the secrets that ours are signed with.

`router` is for who runs this host; `public` is where the messages come in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from starlette.exceptions import HTTPException

from torpor.api.routing import Router, Uses
from torpor.core.webhooks import Unsigned
from torpor.service.hooks import CreatedHook, Hook, UrlSecret
from torpor.web.problems import Json
from torpor.web.requests import ShortText, Strict, sound


class HookRequest(Strict):
    agent: ShortText = Field(description="a deployed agent: FILE, FILE:NAME or NAME")
    event: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)] | None = (
        Field(
            default=None,
            description=("each message is this event for a run; without it, each starts a run"),
        )
    )
    run_at: ShortText | None = Field(
        default=None, description="where a message names its run, such as data.run"
    )
    into: ShortText | None = Field(
        default=None,
        description=("pass the whole message as this parameter; without it, as the input"),
    )


class HooksQuery(Strict):
    all: bool = Field(default=False, description="include revoked ones")


class UrlRequest(Strict):
    url: Annotated[str, Field(max_length=2000), AfterValidator(sound)]


router = Router()
public = APIRouter()


@router.post("/hooks", status_code=201)
async def create(body: HookRequest, service: Uses) -> CreatedHook:
    """Let others start runs of an agent, or send events to them. The secret is shown only this
    once.
    """
    return await service.hooks.create(body.agent, body.event, body.run_at, body.into)


@router.get("/hooks")
async def hooks(query: Annotated[HooksQuery, Query()], service: Uses) -> Sequence[Hook]:
    """List hooks."""
    return await service.hooks.list(query.all)


@router.delete("/hooks/{ref}")
async def revoke(ref: str, service: Uses) -> Hook:
    """Revoke a hook: its messages are refused from now on."""
    return await service.hooks.revoke(ref)


@router.post("/webhook-secrets")
async def secret(body: UrlRequest, service: Uses) -> UrlSecret:
    """The secret that signs torpor's messages to a URL, by Standard Webhooks."""
    return await service.hooks.url_secret(body.url)


# Not among what a key opens (`torpor.api.access`): a message is let in by its signature.
@public.post("/hooks/{hook}", status_code=202, include_in_schema=False)
async def receive(hook: str, request: Request, service: Uses) -> Json:
    """Receive a message, signed by Standard Webhooks. The same webhook-id again changes nothing."""
    try:
        sent = await service.hooks.receive(hook, request.headers, await request.body())
    except Unsigned as error:
        raise HTTPException(401, str(error)) from error
    return Json(sent, 202)
