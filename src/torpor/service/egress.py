"""What agents may reach, what would become of a request, and what became of those there were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.service.shapes import Object, closed

EXCHANGES, EXCHANGES_MAX = 100, 1000


@closed
class Rule(TypedDict):
    """Empty `methods` and `paths` are all of them."""

    host: str
    port: Annotated[int, Field(description="0 is any, of rules that deny")]
    protocol: Annotated[str, Field(description="`https`, `http`, `tcp`; empty is any")]
    methods: Sequence[str]
    paths: Sequence[str]
    secret: Annotated[str, Field(description="the name of the one it asks for")]
    ask: bool
    record: Annotated[str, Field(description="`model`, `http`, or empty: only noted")]
    origin: Annotated[str, Field(description="how the file has it")]
    deny: bool


@closed
class Reach(TypedDict):
    """What the current version of an agent may reach."""

    name: str
    version: str
    engine: str
    origin: str
    deployed_at: float
    entries: Annotated[list[Object], Field(description="[[tool.torpor.egress]] as it was deployed")]
    rules: Annotated[Sequence[Rule], Field(description="what these come to, presets expanded")]
    budget: Annotated[Object, Field(description="[tool.torpor.budget] as it was deployed")]


@closed
class Judged(TypedDict):
    """What would become of a request. None was sent."""

    verdict: Literal["allow", "ask", "deny"]
    rule: Annotated[str, Field(description="which decides: how the file, or the host's, has it")]
    secret: Annotated[str, Field(description="the name of the one that would go along")]
    record: Annotated[str, Field(description="`model` or `http`: it would be an operation")]
    code: Annotated[str, Field(description="of a refusal, for programs")]
    reason: Annotated[str, Field(description="of a refusal, in words")]
    hint: Annotated[str, Field(description="what can be done about it")]
    whole: Annotated[
        bool,
        Field(description="whether egress.toml and the secrets of this host were looked at, too"),
    ]


@closed
class Exchange(TypedDict):
    """A row of the view `egress` (docs/sql.md)."""

    run: str
    op: str | None
    seq: int
    at: float
    ended_at: float | None
    verdict: Literal["allow", "ask", "deny"]
    method: str | None
    url: str | None
    host: str | None
    path: str | None
    status: int | None
    code: str | None
    reason: str | None
    times: int | None
    rule: str | None
    secret: str | None
    permitted_by: str | None
    permitted_at: float | None
    permitted_from: str | None
    sent_bytes: int | None
    received_bytes: int | None
    ms: float | None
    cost_usd: float | None


@dataclass(frozen=True)
class ExchangeFilter:
    """The newest `limit` of those that ended, were refused or were asked for since then."""

    run: str | None = None
    denied: bool = False  # only what was refused
    since: float | None = None
    limit: int = EXCHANGES


class Egress(Protocol):
    async def reach(self, ref: str, *, exact: bool = False) -> Reach:
        """Of the agent that is called so, whatever engine it was deployed for last; `exact`: that
        comes from there. Raises NotFound, Conflict."""
        ...

    async def test(self, ref: str, method: str, url: str) -> Judged:
        """What would become of this request of that agent. Sends nothing, and looks up no address.
        Raises NotFound, Conflict, Invalid."""
        ...

    async def log(self, wanted: ExchangeFilter) -> Sequence[Exchange]:
        """Oldest first. Raises NotFound, TookTooLong."""
        ...
