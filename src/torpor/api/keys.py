"""API keys and tokens (`torpor.core.access`), over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.core.access import Scope
from torpor.service.keys import TOKEN_S, TOKEN_S_MAX, Key, NewKey
from torpor.web.requests import ShortText, Strict

_AGENTS_MAX = 100
_YEARS_S = 100 * 365 * 86400.0
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .@/-]+$")]


class KeyRequest(Strict):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    agents: Annotated[list[ShortText], Field(min_length=1, max_length=_AGENTS_MAX)] | None = Field(
        default=None,
        description=("for these agents only; with scopes observe, operate, trigger, exec"),
    )
    expires_s: Annotated[float, Field(gt=0, le=_YEARS_S)] | None = None


class TokenRequest(Strict):
    """Give exactly one of the two."""

    run: ShortText | None = None
    wait: ShortText | None = None
    expires_s: float = Field(default=TOKEN_S, gt=0, le=TOKEN_S_MAX)


router = Router()


@router.post("/keys", status_code=201)
async def create(body: KeyRequest, service: Uses) -> NewKey:
    """Create a key. It is shown only this once: torpor keeps its hash."""
    return await service.keys.create(body.name, body.scopes, body.agents, body.expires_s)


@router.get("/keys")
async def list_keys(service: Uses) -> Sequence[Key]:
    """List keys, oldest first, including expired and revoked ones."""
    return await service.keys.list()


@router.delete("/keys/{ref}")
async def revoke(ref: str, service: Uses) -> Key:
    """Revoke a key, which is refused from now on. `ref` is its id, or its name if no other
    has it.
    """
    return await service.keys.revoke(ref)


@router.post("/tokens", status_code=201)
async def token(body: TokenRequest, service: Uses) -> NewKey:
    """Create a short-lived key to look at one run, or to answer one wait, for a page or a
    person.
    """
    return await service.keys.create_token(body.run, body.wait, body.expires_s)
