"""API keys and tokens (`torpor.core.access`), over HTTP."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field

from torpor.control.service.access import TOKEN_S, TOKEN_S_MAX, Access
from torpor.core.access import Scope
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, ShortText, Strict

_AGENTS_MAX = 100
_YEARS_S = 100 * 365 * 86400.0
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w .@/-]+$")]


class KeyRequest(Strict):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=len(Scope))]
    agents: Annotated[list[ShortText], Field(min_length=1, max_length=_AGENTS_MAX)] | None = Field(
        default=None,
        description="for these agents only; with scopes observe, operate, trigger, exec",
    )
    expires_s: Annotated[float, Field(gt=0, le=_YEARS_S)] | None = None


class TokenRequest(Strict):
    """Give exactly one of the two."""

    run: ShortText | None = None
    wait: ShortText | None = None
    expires_s: float = Field(default=TOKEN_S, gt=0, le=TOKEN_S_MAX)


class Key(BaseModel):
    """A key's record. Only its owner has the key itself."""

    id: str
    name: str
    scopes: list[Scope]
    agents: list[str] | None
    run: str | None = Field(description="for a token: the one run that it is for")
    wait: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None


class NewKey(Key):
    key: str = Field(description="shown only this once; send it as `Authorization: Bearer …`")


class HasAccess(Protocol):
    @property
    def access(self) -> Access: ...


def _access(request: Request) -> Access:
    service: HasAccess = request.app.state.service
    return service.access


Keys = Annotated[Access, Depends(_access)]
router = APIRouter(prefix="/v1", responses=PROBLEMS)


@router.post("/keys", status_code=201, responses={201: {"model": NewKey}})
async def create(body: KeyRequest, keys: Keys) -> Json:
    """Create a key. It is shown only this once: torpor keeps its hash."""
    made = await keys.create(body.name, body.scopes, body.agents, body.expires_s)
    return Json(made, status_code=201)


@router.get("/keys", responses={200: {"model": list[Key]}})
async def list_keys(keys: Keys) -> Json:
    """List keys, oldest first, including expired and revoked ones."""
    return Json(await keys.list())


@router.delete("/keys/{ref}", responses={200: {"model": Key}})
async def revoke(ref: str, keys: Keys) -> Json:
    """Revoke a key, which is refused from now on. `ref` is its id, or its name if no other
    has it.
    """
    return Json(await keys.revoke(ref))


@router.post("/tokens", status_code=201, responses={201: {"model": NewKey}})
async def token(body: TokenRequest, keys: Keys) -> Json:
    """Create a short-lived key to look at one run, or to answer one wait, for a page or a
    person.
    """
    return Json(await keys.token(body.run, body.wait, body.expires_s), status_code=201)
