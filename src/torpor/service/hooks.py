"""Webhooks: those that others send in, and the secrets that ours are signed with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.service.events import Sent
from torpor.service.shapes import closed


@closed
class Hook(TypedDict):
    id: str
    agent: str
    origin: Annotated[str, Field(description="where its agent comes from; empty means anywhere")]
    event: str | None
    run_at: str | None
    into: str | None
    created_at: float
    revoked_at: float | None
    url: str


@closed
class CreatedHook(Hook):
    secret: Annotated[str, Field(description="shown only this once")]


@closed
class UrlSecret(TypedDict):
    url: str
    secret: str


class Hooks(Protocol):
    async def create(
        self,
        agent: str,
        event: str | None = None,
        run_at: str | None = None,
        into: str | None = None,
    ) -> CreatedHook:
        """Raises NotFound (no such agent), Conflict, Invalid (what does not go together)."""
        ...

    async def list(self, revoked: bool = False) -> Sequence[Hook]: ...

    async def revoke(self, ref: str) -> Hook:
        """Raises NotFound."""
        ...

    async def receive(self, hook: str, headers: Mapping[str, str], body: bytes) -> Sent:
        """A message that arrived. Raises NotFound (no such hook, or run), Unsigned, Invalid,
        Conflict."""
        ...

    async def url_secret(self, url: str) -> UrlSecret:
        """What messages to `url` are signed with. Raises Invalid, HostError."""
        ...
