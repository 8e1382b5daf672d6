"""Secrets that are sent for agents (`torpor.core.secrets`). They are written, never read: nothing
here gives a value, or a part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.secrets import Author
from torpor.service.shapes import closed


@closed
class Secret(TypedDict):
    name: str
    hosts: list[str]
    placement: Annotated[
        dict[str, str],
        Field(description=("where it stands in a request: one of `header`, `query`, `basic`")),
    ]
    agents: Annotated[list[str] | None, Field(description="null: all")]
    set_at: float
    set_by: str
    rotated_at: float | None
    rotated_by: str | None
    used_at: Annotated[
        float | None, Field(description="when it was last sent; to a minute, null: never")
    ]


@closed
class SetSecret(Secret):
    unknown_agents: Annotated[
        list[str], Field(description="those it is for that are not deployed yet")
    ]


@closed
class SecretChange(TypedDict):
    name: str
    what: Literal["set", "rotated", "removed"]
    at: float
    by: str
    whence: Annotated[str, Field(description="from which address, where that is known")]


class Secrets(Protocol):
    """A change is durable, and the broker has it, when these return: the next request that an agent
    makes is sent with it, or is not sent any more. One that is under way ends as it began."""

    async def set(
        self,
        name: str,
        value: str,
        *,
        hosts: Sequence[str] | None = None,
        placement: Mapping[str, str] | None = None,
        agents: Sequence[str] | None = None,
        author: Author,
    ) -> SetSecret:
        """In place of the one of this name. What is not given follows from presets. Raises
        Invalid, HostError."""
        ...

    async def rotate(self, name: str, value: str, *, author: Author) -> Secret:
        """Another value, for the same hosts and agents. Raises NotFound, Conflict, Invalid,
        HostError."""
        ...

    async def remove(self, name: str, *, author: Author) -> Secret:
        """As it was. Raises NotFound."""
        ...

    async def list(self) -> Sequence[Secret]:
        """By name."""
        ...

    async def changes(self, name: str | None = None) -> Sequence[SecretChange]:
        """What was done to secrets, also to those that are gone. Oldest first."""
        ...
