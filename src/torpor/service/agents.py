"""Agents: deployed versions of users' programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.agentfile import AgentSource
from torpor.service.egress import Rule
from torpor.service.shapes import Object, closed

Report = Callable[[str, str, float | None], None]
"""`report(stage, message, fraction)`: how far a long piece of work has come."""


@closed
class Deployment(TypedDict):
    origin: Annotated[str, Field(description="where it comes from")]
    name: str
    deployed_at: float


@closed
class Agent(TypedDict):
    version: str
    engine: str
    name: str
    agents: list[Object]
    egress: Annotated[Sequence[Rule], Field(description="what it may reach")]
    template_bytes: int | None
    boot_ms: float | None
    first_at: float
    deployed_at: float | None
    current: Annotated[
        list[Deployment], Field(description=("the names whose current version it is"))
    ]


@closed
class DescribedAgent(TypedDict):
    version: str
    engine: str
    name: str
    agent: Annotated[Object, Field(description="name, doc, params, open, and the input's `schema`")]


@closed
class Deployed(TypedDict):
    version: str
    engine: str
    agents: list[Object]
    default: str | None
    boot_ms: float | None
    template_bytes: int | None
    cached: bool


class Agents(Protocol):
    async def deploy(
        self, source: AgentSource, report: Report, engine: str | None = None
    ) -> Deployed:
        """The version that `source` makes, ready to run on `engine` (by default the one that its
        file names, else the server's). What is deployed already is only made current again.
        Raises Invalid, GuestError (it does not load), HostError."""
        ...

    async def list(self) -> Sequence[Agent]:
        """All versions, each with what it is the current version of."""
        ...

    async def get(
        self, ref: str | None, version: str | None = None, engine: str | None = None
    ) -> DescribedAgent:
        """What `runs.start` would start. Without an engine, an agent of any engine will do.
        Raises NotFound, Conflict, Invalid."""
        ...

    async def retire(self, ref: str) -> Deployment:
        """Forget that it is deployed; its runs stay. Raises NotFound, Conflict."""
        ...
