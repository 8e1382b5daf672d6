"""Secrets of agents, over HTTP: they come in, and never out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query, Request
from pydantic import Field, SecretStr

from torpor.api.access import whence, who
from torpor.api.routing import Router, Uses
from torpor.core.placements import VALUE_CHARS_MAX
from torpor.core.secrets import TERMS_MAX, Author
from torpor.service.secrets import Secret, SecretChange, SetSecret
from torpor.web.requests import ShortText, Strict

Value = Annotated[SecretStr, Field(max_length=VALUE_CHARS_MAX + 2)]


class SecretRequest(Strict):
    value: Value = Field(description="one line; it is never given back")
    hosts: Annotated[list[ShortText], Field(max_length=TERMS_MAX)] | None = Field(
        default=None,
        description="where it may be sent: names, `*.x`, `**.x`; by default those of the preset "
        "that knows the secret by its name",
    )
    placement: dict[str, str] | None = Field(
        default=None,
        description='where it stands: {"header": "Authorization: Bearer {}"}, {"query": KEY} or '
        '{"basic": USER}; by default as the preset of the hosts has it, else a bearer token',
    )
    agents: Annotated[list[ShortText], Field(min_length=1, max_length=TERMS_MAX)] | None = Field(
        default=None, description="for these agents only, by name"
    )


class RotateRequest(Strict):
    value: Value = Field(description="one line; it is never given back")


class ChangesQuery(Strict):
    name: ShortText | None = None


router = Router()


@router.put("/secrets/{name}")
async def put(name: str, body: SecretRequest, request: Request, service: Uses) -> SetSecret:
    """Set a secret, in place of the one of this name. Requests that begin from now on have it."""
    return await service.secrets.set(
        name,
        body.value.get_secret_value(),
        hosts=body.hosts,
        placement=body.placement,
        agents=body.agents,
        author=_author(request),
    )


@router.post("/secrets/{name}/rotate")
async def rotate(name: str, body: RotateRequest, request: Request, service: Uses) -> Secret:
    """Give a secret another value. Requests that begin from now on have it."""
    return await service.secrets.rotate(
        name, body.value.get_secret_value(), author=_author(request)
    )


@router.delete("/secrets/{name}")
async def remove(name: str, request: Request, service: Uses) -> Secret:
    """Remove a secret. Requests that need it are refused from now on."""
    return await service.secrets.remove(name, author=_author(request))


@router.get("/secrets")
async def list_secrets(service: Uses) -> Sequence[Secret]:
    """List secrets by name: whom they serve, and who set them; never their values."""
    return await service.secrets.list()


@router.get("/secret-changes")
async def changes(query: Annotated[ChangesQuery, Query()], service: Uses) -> Sequence[SecretChange]:
    """List what was done to secrets, oldest first, also to those that are gone."""
    return await service.secrets.changes(query.name)


def _author(request: Request) -> Author:
    return Author(who(request), whence(request.scope))
