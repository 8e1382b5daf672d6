"""Runs: started, found, ended, and continued as others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NotRequired, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.access import LOCAL, Grant
from torpor.core.starting import AT_ONCE, Start
from torpor.core.states import RunState
from torpor.service.shapes import Object, closed
from torpor.service.waits import Wait


@closed
class Run(TypedDict):
    """Times are unix seconds."""

    id: str
    version: str
    agent: str | None
    engine: str
    state: RunState
    input: Object
    result: Any
    error: Object | None
    epoch: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    ran_s: float
    slept_s: float
    state_since: float
    last_seq: int
    origin: Annotated[
        str | None, Field(description=("for a fork: the run that it was forked from"))
    ]
    origin_seq: Annotated[
        int | None, Field(description=("for a fork: the last entry that it shares with its origin"))
    ]
    parent: Annotated[str | None, Field(description=("for a child: the run that spawned it"))]
    queue: str
    queue_key: str | None
    priority: int
    not_before: float | None
    expires_at: float | None
    after: Annotated[
        str | None, Field(description=("the run that must end before this one starts"))
    ]
    successor: Annotated[
        str | None, Field(description="for a failed run: the run that took its place")
    ]
    attempt: Annotated[int, Field(description="the number of this try, from 1")]
    schedule: Annotated[str | None, Field(description="the schedule that started it")]
    env: Annotated[list[str], Field(description=("the names of its own environment variables"))]
    queued_because: NotRequired[
        Annotated[str | None, Field(description="why it is waiting for a machine, in words")]
    ]
    asleep_under: NotRequired[
        Annotated[
            list[str],
            Field(description="operations (`model`, `http`) under whose calls it is asleep"),
        ]
    ]


@closed
class Conversation(TypedDict):
    """Tokens as the agent counts them: `tokens_sent` in all of its windows, and `tokens_whole` if
    each had been the whole conversation.
    """

    messages: int
    tokens: int
    turns: int
    tokens_sent: int
    tokens_whole: int
    compactions: int


@closed
class Used(TypedDict):
    model: str | None
    calls: int
    input_tokens: Annotated[
        int | None, Field(description=("as replies reported; null if none did"))
    ]
    cached_tokens: int | None
    output_tokens: int | None
    unmeasured: Annotated[
        int,
        Field(
            description=(
                "calls whose replies did not report tokens; tokens and cost leave them out"
            )
        ),
    ]
    repeats: Annotated[
        int,
        Field(
            description=(
                "how often a call was in doubt and repeated, and so may have been paid twice"
            )
        ),
    ]
    cost_usd: Annotated[
        float | None,
        Field(description=("null if there is no price for the model, or no reply reported tokens")),
    ]


@closed
class RunFile(TypedDict):
    path: Annotated[str, Field(description="relative to the agent's working directory")]
    digest: Annotated[str, Field(description="BLAKE3 of its bytes")]
    bytes: int


@closed
class Share(TypedDict):
    """What a run has used itself, of what its budget allows."""

    kind: Annotated[str, Field(description="`cost` (US dollars), `tokens`, `requests`, …")]
    used: float
    allowed: Annotated[float | None, Field(description="null is without limit")]
    asks: Annotated[bool, Field(description="what passes it asks a person, and is not denied")]


@closed
class RunDetail(Run):
    files: Annotated[list[RunFile], Field(description="the files that it was given")]
    waits: list[Wait]
    in_doubt: Annotated[
        list[Object], Field(description=("operations that were interrupted and not repeated yet"))
    ]
    snapshots_count: int
    bytes: int
    template_bytes: int | None
    cycles: int
    forked: Annotated[Object | None, Field(description="for a fork: how it was made")]
    models: Annotated[list[Used], Field(description="tokens and cost, by model")]
    budget: Annotated[list[Share], Field(description="what it has used of the network")]
    output: Annotated[
        dict[str, dict[str, int]],
        Field(
            description=(
                "bytes of stdout and stderr: printed, logged, kept beside the log, dropped"
            )
        ),
    ]
    conversation: Conversation | None
    family: Annotated[
        list[Run], Field(description=("all runs of its tree of forks, each after its origin"))
    ]
    children: Annotated[list[Run], Field(description="the runs that it spawned")]
    machine: Object | None


@closed
class Deleted(TypedDict):
    id: str
    deleted: bool


@dataclass(frozen=True)
class RunRequest:
    """A run to be started: of a `version` of an agent, or of the current one for `engine` by the
    agent's name. `files`: path → digest of what was uploaded. The same `id_key` twice is one
    run. `by` is whoever starts it."""

    input: Mapping[str, Any]
    version: str | None = None
    agent: str | None = None
    engine: str | None = None
    id_key: str | None = None
    start: Start = AT_ONCE
    files: Mapping[str, str] = field(default_factory=dict)
    by: Grant = LOCAL


@dataclass(frozen=True)
class ForkRequest:
    """How a fork differs from its origin. `at`: a place in the origin's log, or one of its
    snapshots; by default its end, or the place of the last of the results that are `set`. `version`
    is another of the agent's."""

    at: int | str | None = None
    input: Mapping[str, Any] | None = None
    version: str | None = None
    set: Mapping[str, Any] = field(default_factory=dict)
    how: str = "fork"
    by: Grant | None = None  # whose limits it counts under; its origin's otherwise


@dataclass(frozen=True)
class RunFilter:
    """`before`: only runs older than this one. `text` is looked for in ids, agents, inputs,
    results and errors."""

    states: Sequence[str] | None = None
    limit: int = 50
    before: str | None = None
    agent: str | None = None
    text: str | None = None


ALL_RUNS = RunFilter()


class Runs(Protocol):
    """`ref` is a run's id, or a unique prefix of one; NotFound where there is no such run."""

    async def start(self, request: RunRequest) -> Run:
        """Raises NotFound, Conflict, Invalid, Exhausted."""
        ...

    async def list(self, filter: RunFilter = ALL_RUNS) -> Sequence[Run]:
        """Newest first."""
        ...

    async def find(self, ref: str) -> Run:
        """The run itself: much less work than all that `get` gathers of it."""
        ...

    async def get(self, ref: str) -> RunDetail: ...

    async def cancel(self, ref: str) -> Run:
        """A run without a machine ends at once, unwoken. One with a machine may clean up first.
        Raises Conflict (it has ended), HostError (it does not end)."""
        ...

    async def fork(self, ref: str, request: ForkRequest) -> Run:
        """Raises Conflict, Invalid, HostError."""
        ...

    async def retry(self, ref: str, version: str | None = None) -> Run:
        """A fork of a failed or cancelled run without what it failed for. Raises as `fork`."""
        ...

    async def reload(self, ref: str, version: str, *, fresh: bool) -> RunDetail:
        """The run that takes this one's place, of another version. Raises as `fork`."""
        ...

    async def upgrade(self, ref: str, version: str | None = None) -> Run:
        """Move a waiting run to another version, by default the current one. Raises Conflict,
        Invalid."""
        ...

    async def delete(self, ref: str) -> Deleted:
        """For good. Raises Conflict (it has not ended, or others share its log), HostError."""
        ...

    async def result(self, ref: str, op: str) -> tuple[str, Iterator[bytes]]:
        """The form ("json" or "bytes") and the content of an operation's result; reading the
        content blocks."""
        ...


class Transfers(Protocol):
    """Runs as files (docs/formats/export.md)."""

    async def export(self, ref: str, snapshot: str | None = None) -> Iterator[bytes]:
        """A run as a file; reading it blocks. Raises NotFound, Conflict, Damaged."""
        ...

    async def import_run(self, chunks: AsyncIterator[bytes]) -> Run:
        """Add a run that `export` gave elsewhere. Raises Conflict, Invalid, Damaged, HostError."""
        ...
