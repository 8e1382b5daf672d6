"""API keys, and tokens for one run or one wait (`torpor.core.access`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.access import Grant, Scope
from torpor.service.shapes import closed

TOKEN_S, TOKEN_S_MAX = 3600.0, 7 * 86400.0


@closed
class Key(TypedDict):
    """A key's record. Only its owner has the key itself."""

    id: str
    name: str
    scopes: list[Scope]
    agents: list[str] | None
    run: Annotated[str | None, Field(description=("for a token: the one run that it is for"))]
    wait: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@closed
class NewKey(Key):
    key: Annotated[
        str, Field(description=("shown only this once; send it as `Authorization: Bearer …`"))
    ]


class ApiKeys(Protocol):
    async def create(
        self,
        name: str,
        scopes: Sequence[Scope],
        agents: Sequence[str] | None = None,
        expires_s: float | None = None,
    ) -> NewKey:
        """Raises Invalid."""
        ...

    async def create_token(
        self, run: str | None = None, wait: str | None = None, expires_s: float = TOKEN_S
    ) -> NewKey:
        """A key that shows one run, or shows one wait and answers it. Raises Invalid, NotFound."""
        ...

    async def list(self) -> Sequence[Key]:
        """Oldest first."""
        ...

    async def revoke(self, ref: str) -> Key:
        """Raises NotFound."""
        ...

    async def recognize(self, text: str) -> Grant:
        """What whoever has this key may do. Raises Unauthorized."""
        ...
