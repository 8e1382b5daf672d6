"""Waits, and the public links that lead to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.service.shapes import closed


@closed
class Wait(TypedDict):
    id: str
    run: str
    agent: Annotated[str | None, Field(description="the run's version")]
    op: str
    kind: str
    prompt: str | None
    data: Annotated[
        Any,
        Field(
            description=(
                "what the agent shows; of a permission what is asked for, as the server shows it: "
                "method, url, headers, body, or action and arguments; digest, and changes since "
                "the last that was allowed"
            )
        ),
    ]
    schema: Any
    approve: bool
    tags: list[str]
    id_key: str | None
    webhooks: Annotated[
        list[str],
        Field(description=("the webhooks that are notified, by their names in the agent's file")),
    ]
    remind_after: list[float]
    reminded: int
    remind_at: float | None
    created_at: float
    due_at: float | None
    state: str
    value: Any
    completed_at: float | None
    by: str | None
    child: Annotated[str | None, Field(description="the child run that it waits for")]
    url: Annotated[
        str | None,
        Field(
            description=(
                "the public link, at which whoever has it may answer; null if the server has none"
            )
        ),
    ]


@closed
class PublicWait(TypedDict):
    """A wait as whoever has its link may see it: neither its run, nor what others have said."""

    agent: str
    name: str
    kind: str
    prompt: str | None
    data: Any
    schema: Any
    approve: bool
    created_at: float
    due_at: float | None
    state: str
    completed_at: float | None
    approved: bool | None


@dataclass(frozen=True)
class Answer:
    """About a permission `data` is {decision, reason?}; or `approved`, for once, and a `note`.
    `origin` is how and from where it came, for the log."""

    data: Any = None
    approved: bool | None = None
    note: str | None = None
    by: str | None = None
    origin: str | None = None


@dataclass(frozen=True)
class WaitFilter:
    """`after`: only waits younger than this one. `ended`: those that have ended, too. `text` is
    looked for in prompts, data and ids."""

    run: str | None = None
    ended: bool = False
    limit: int | None = None
    after: str | None = None
    tag: str | None = None
    kinds: Sequence[str] | None = None
    approve: bool | None = None
    agent: str | None = None
    text: str | None = None


OPEN_WAITS = WaitFilter()


class Waits(Protocol):
    """`ref` is a wait's id, or a unique prefix of one; NotFound where there is no such wait."""

    async def list(self, filter: WaitFilter = OPEN_WAITS) -> Sequence[Wait]:
        """Oldest first."""
        ...

    async def get(self, ref: str) -> Wait: ...

    async def complete(self, ref: str, answer: Answer) -> Wait:
        """Raises Conflict (it has ended, or ends by itself), Invalid (it asks for something
        else)."""
        ...

    async def action(self, ref: str) -> str:
        """All of what a permission is asked for, as text. Raises Conflict for another wait."""
        ...


class Links(Protocol):
    """A link's token is all that one needs. Raises NotFound for one that leads nowhere."""

    async def get(self, token: str) -> PublicWait: ...

    async def answer(self, token: str, answer: Answer) -> PublicWait:
        """Raises as `Waits.complete`."""
        ...

    async def action(self, token: str) -> str:
        """As `Waits.action`."""
        ...
