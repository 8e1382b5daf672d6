"""What the API takes, checked strictly (rule 13), and what it gives, for /docs.

What it takes is refused when a field is unknown, of the wrong type, out of range, or holds
something that JSON cannot carry back. What it gives is made by the service and sent as it is:
the models of answers only describe it.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from torpor.core import jsonvalues
from torpor.core.agentfile import (
    DISK_MIB_MAX,
    DISK_MIB_MIN,
    FILES_BYTES_MAX,
    FILES_MAX,
    AgentSource,
)
from torpor.core.environment import check_env
from torpor.core.errors import Invalid
from torpor.core.keep import parse_keep
from torpor.core.rules import parse_rules
from torpor.core.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN
from torpor.core.states import RunState
from torpor.core.webhooks import check_webhooks
from torpor.engine import registry


def sound(value: Any) -> Any:
    """Python's parser takes more than JSON, and deeper (`torpor.core.jsonvalues`)."""
    if (wrong := jsonvalues.fault(value)) is not None:
        raise ValueError(wrong)
    return value


def _path(path: str) -> str:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or str(pure) != path:
        raise ValueError(f"{path!r} is not a plain relative path")
    return path


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("is not base64") from None


def _requirement(text: str) -> str:
    # It becomes an argument of an installer: never an option of it.
    if not text.strip() or text.lstrip().startswith("-") or "\n" in text or "\0" in text:
        raise ValueError(f"{text!r} is not a requirement such as 'httpx>=0.28'")
    return text


def _states(text: str) -> str:
    known = [state.value for state in RunState]
    unknown = [part for part in text.split(",") if part not in known]
    if unknown:
        raise ValueError(f"unknown state {', '.join(unknown)}; known are {', '.join(known)}")
    return text


def _keep(text: str) -> str:
    try:
        parse_keep(text, "keep")
    except Invalid as error:
        raise ValueError(error.message) from error
    return text


def _rules(given: dict[str, Any]) -> dict[str, Any]:
    try:
        registry.checked(parse_rules(given, "rules"), "rules")
    except Invalid as error:
        raise ValueError(error.message) from error
    return given


def _engine(name: str) -> str:
    try:
        return registry.check(name, "engine")
    except Invalid as error:
        raise ValueError(f"{error.message}. {error.hint}") from error


EngineName = Annotated[
    str, AfterValidator(_engine), WithJsonSchema({"type": "string", "enum": list(registry.NAMES)})
]


def _webhooks(table: dict[str, str]) -> dict[str, str]:
    try:
        return check_webhooks(table, "webhooks")
    except Invalid as error:
        raise ValueError(error.message) from error


def _env(given: dict[str, str]) -> dict[str, str]:
    try:
        return check_env(given, "env")
    except Invalid as error:
        raise ValueError(error.message) from error


def split(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


def _utf8(header: Any) -> Any:
    """A header's bytes come as Latin-1; they are read as what a body is in."""
    try:
        return header.encode("latin-1").decode() if isinstance(header, str) else header
    except UnicodeError:
        raise ValueError("is not UTF-8; give it in the body instead") from None


AnyJson = Annotated[Any, AfterValidator(sound)]
Text = Annotated[str, AfterValidator(sound)]
ShortText = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(sound)]

Env = Annotated[dict[str, str], AfterValidator(_env)]
HeaderText = Annotated[ShortText, BeforeValidator(_utf8)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class DeployRequest(Strict):
    entry: str
    files: dict[
        Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_path)],
        Annotated[bytes, BeforeValidator(_decoded)],
    ] = Field(max_length=FILES_MAX, description="base64 of each file, by relative path")
    executable: list[Annotated[str, Field(max_length=1024)]] = Field(
        default=[], max_length=FILES_MAX, description="which of the files are executable"
    )
    requires_python: Annotated[str, Field(max_length=200)] = ""
    dependencies: list[Annotated[str, Field(max_length=1000), AfterValidator(_requirement)]] = (
        Field(default=[], max_length=1000)
    )
    memory_mib: int = Field(default=512, ge=MEMORY_MIB_MIN, le=MEMORY_MIB_MAX, multiple_of=2)
    disk_mib: int = Field(default=2048, ge=DISK_MIB_MIN, le=DISK_MIB_MAX, multiple_of=2)
    env: Env = Field(default={}, description="environment variables, set before the import")
    keep: Annotated[str, AfterValidator(_keep)] = Field(
        default="", description='how long snapshots are kept: "last 3", "7d", "all"'
    )
    on_divergence: Literal["stop", "fork", "latest"] = "stop"
    rules: Annotated[dict[str, Any], AfterValidator(_rules)] = Field(
        default={}, description="rules for its runs, as in [tool.torpor]: `queue`, …"
    )
    webhooks: Annotated[dict[str, str], AfterValidator(_webhooks)] = Field(
        default={}, description="URLs that its waits may notify, by name"
    )
    engine: EngineName | None = Field(
        default=None, description="by default the one in `rules`, or else the server's"
    )
    name: ShortText | None = Field(default=None, description="by default the name of the entry")
    origin: Annotated[str, Field(max_length=4096), AfterValidator(sound)] = Field(
        default="",
        description="where it comes from: a path, or a repository's address and a path in it. "
        "Agents of the same name that come from elsewhere are different agents",
    )

    @model_validator(mode="after")
    def _whole(self) -> DeployRequest:
        if self.entry not in self.files:
            raise ValueError(f"entry {self.entry!r} is not one of the files")
        if unknown := set(self.executable) - self.files.keys():
            raise ValueError(f"executable {min(unknown)!r} is not one of the files")
        if sum(map(len, self.files.values())) > FILES_BYTES_MAX:
            raise ValueError(f"the files have more than {FILES_BYTES_MAX:,} bytes together")
        return self

    def source(self) -> AgentSource:
        return AgentSource(
            entry=self.entry,
            files=self.files,
            executable=frozenset(self.executable),
            requires_python=self.requires_python,
            dependencies=tuple(sorted(self.dependencies)),
            memory_mib=self.memory_mib,
            disk_mib=self.disk_mib,
            env=self.env,
            keep=self.keep,
            on_divergence=self.on_divergence,
            rules=parse_rules(self.rules, "rules"),
            webhooks=self.webhooks,
            name=self.name or "",
            origin=self.origin,
        )


class ForkRequest(Strict):
    at: Annotated[int, Field(ge=0, le=2**53)] | ShortText | None = Field(
        default=None,
        description="a position in the run's log, or a snapshot; by default the end of the "
        "log, or the last of the results to set",
    )
    input: Annotated[dict[str, Any], AfterValidator(sound)] | None = Field(
        default=None, description="another input; the fork then starts at the beginning"
    )
    version: ShortText | None = Field(default=None, description="another version of the agent")
    set: dict[Annotated[str, Field(max_length=400)], AnyJson] = Field(
        default={},
        max_length=1000,
        description="operation → the result to replace its recorded one",
    )


class RetryRequest(Strict):
    version: ShortText | None = Field(default=None, description="another version of the agent")


class CompleteRequest(Strict):
    data: AnyJson = None
    approved: bool | None = None
    note: Annotated[str, Field(max_length=10_000), AfterValidator(sound)] | None = None
    by: ShortText | None = None


class PublicAnswer(Strict):
    """An answer at a public link."""

    data: AnyJson = None
    approved: bool | None = None
    note: Annotated[str, Field(max_length=10_000), AfterValidator(sound)] | None = None


class RunsQuery(Strict):
    states: Annotated[str, AfterValidator(_states)] | None = Field(
        default=None, description="comma separated"
    )
    limit: int = Field(default=50, ge=1, le=1000)
    before: ShortText | None = Field(default=None, description="only runs older than this one")
    agent: ShortText | None = Field(default=None, description="only runs of this agent")
    text: ShortText | None = Field(
        default=None, description="only runs whose id, agent, input, result or error has this text"
    )


class LogQuery(Strict):
    after: int = Field(default=0, ge=0, le=2**53, description="only entries with a larger seq")
    limit: int = Field(default=1000, ge=1, le=10_000)
    kinds: Annotated[str, Field(max_length=1000)] | None = Field(
        default=None, description="comma separated"
    )
    follow: bool = Field(default=False, description="stream entries until the run ends")
    tail: int | None = Field(
        default=None,
        ge=0,
        le=2**53,
        description="only this many of the last entries of these kinds",
    )
    since: float | None = Field(
        default=None, ge=0, le=2**53, description="only entries since then; unix seconds"
    )


class OutputQuery(Strict):
    offset: int = Field(default=0, ge=0, le=2**53, description="start at this byte of the stream")


class SendRequest(Strict):
    name: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)]
    data: AnyJson = None
    id: Annotated[str, Field(min_length=1, max_length=256), AfterValidator(sound)] | None = Field(
        default=None, description="your id: sent twice with the same id, it is one event"
    )
    by: ShortText | None = None


class AgentQuery(Strict):
    version: ShortText | None = Field(default=None, description="by default the current one")
    engine: EngineName | None = None


class WaitsQuery(Strict):
    run: ShortText | None = None
    agent: ShortText | None = None
    text: ShortText | None = Field(default=None, description="text in its prompt, data or ids")
    tag: ShortText | None = None
    all: bool = Field(default=False, description="include those that have ended")
    limit: int | None = Field(default=None, ge=1, le=1000)
    after: ShortText | None = Field(default=None, description="only waits newer than this one")
    kinds: ShortText | None = Field(
        default=None, description="comma separated: wait, event, sleep, doubt, child"
    )


class PinRequest(Strict):
    pinned: bool


class GcRequest(Strict):
    dry_run: bool = Field(default=False, description="only report what would be done")


class BackupRequest(Strict):
    directory: Annotated[str, Field(min_length=1, max_length=4096)] = Field(
        description="an absolute path on the server's host that does not exist yet"
    )
    key: bool = Field(default=False, description="include host.key, which opens everything else")


class ExportQuery(Strict):
    snapshot: ShortText | None = Field(
        default=None, description="this snapshot instead of the newest"
    )


class Problem(BaseModel):
    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "problem details (RFC 9457)"}
}


class Health(BaseModel):
    version: str
    pid: int
    engine: str
    engine_why: str
    accel: str | None
    home: str
    model: str | None
    public_url: str | None
    started_at: float


class Totals(BaseModel):
    runs: dict[RunState, int]
    waits_open: int
    waits_asking: int = Field(description="those of them that a person may answer")
    snapshots: int
    snapshot_bytes: int


class Deployment(BaseModel):
    origin: str = Field(description="where it comes from")
    name: str
    deployed_at: float


class Agent(BaseModel):
    version: str
    engine: str
    name: str
    agents: list[dict[str, Any]]
    template_bytes: int | None
    boot_ms: float | None
    first_at: float
    deployed_at: float | None
    current: list[Deployment] = Field(description="the names whose current version it is")


class DescribedAgent(BaseModel):
    version: str
    engine: str
    name: str
    agent: dict[str, Any] = Field(description="name, doc, params, open, and the input's `schema`")


class Run(BaseModel):
    """Times are unix seconds."""

    id: str
    version: str
    agent: str | None
    engine: str
    state: RunState
    input: dict[str, Any]
    result: Any
    error: dict[str, Any] | None
    epoch: int
    created_at: float
    started_at: float | None
    ended_at: float | None
    ran_s: float
    slept_s: float
    state_since: float
    last_seq: int
    origin: str | None = Field(description="for a fork: the run that it was forked from")
    origin_seq: int | None = Field(
        description="for a fork: the last entry that it shares with its origin"
    )
    parent: str | None = Field(description="for a child: the run that spawned it")
    queue: str
    queue_key: str | None
    priority: int
    not_before: float | None
    expires_at: float | None
    after: str | None = Field(description="the run that must end before this one starts")
    successor: str | None = Field(description="for a failed run: the run that took its place")
    attempt: int = Field(description="the number of this try, from 1")
    schedule: str | None = Field(description="the schedule that started it")
    env: list[str] = Field(description="the names of its own environment variables")
    queued_because: str | None = Field(
        default=None, description="why it is waiting for a machine, in words"
    )


class Wait(BaseModel):
    id: str
    run: str
    agent: str | None = Field(description="the run's version")
    op: str
    kind: str
    prompt: str | None
    data: Any
    schema_: Any = Field(alias="schema")
    approve: bool
    tags: list[str]
    id_key: str | None
    webhooks: list[str] = Field(
        description="the webhooks that are notified, by their names in the agent's file"
    )
    remind_after: list[float]
    reminded: int
    remind_at: float | None
    created_at: float
    due_at: float | None
    state: str
    value: Any
    completed_at: float | None
    by: str | None
    child: str | None = Field(description="the child run that it waits for")
    url: str | None = Field(
        description="the public link, at which whoever has it may answer; null if the server has "
        "none"
    )


class Sent(BaseModel):
    run: str
    seq: int | None = Field(
        description="the event's position in the run's log; null if the run was started by it"
    )
    name: str | None
    wait: str | None = Field(
        description="the wait that it ended; null if the run does not wait for it yet"
    )
    again: bool = Field(description="it had been sent before, and nothing was changed")


class Conversation(BaseModel):
    """Tokens as the agent counts them: `tokens_sent` in all of its windows, and `tokens_whole` if
    each had been the whole conversation.
    """

    messages: int
    tokens: int
    turns: int
    tokens_sent: int
    tokens_whole: int
    compactions: int


class Used(BaseModel):
    model: str | None
    calls: int
    input_tokens: int | None = Field(description="as replies reported; null if none did")
    cached_tokens: int | None
    output_tokens: int | None
    unmeasured: int = Field(
        description="calls whose replies did not report tokens; tokens and cost leave them out"
    )
    repeats: int = Field(
        description="how often a call was in doubt and repeated, and so may have been paid twice"
    )
    cost_usd: float | None = Field(
        description="null if there is no price for the model, or no reply reported tokens"
    )


class RunFile(BaseModel):
    path: str = Field(description="relative to the agent's working directory")
    digest: str = Field(description="BLAKE3 of its bytes")
    bytes: int


class RunDetail(Run):
    files: list[RunFile] = Field(description="the files that it was given")
    waits: list[Wait]
    in_doubt: list[dict[str, Any]] = Field(
        description="operations that were interrupted and not repeated yet"
    )
    snapshots_count: int
    bytes: int
    template_bytes: int | None
    cycles: int
    forked: dict[str, Any] | None = Field(description="for a fork: how it was made")
    models: list[Used] = Field(description="tokens and cost, by model")
    output: dict[str, dict[str, int]] = Field(
        description="bytes of stdout and stderr: printed, logged, kept beside the log, dropped"
    )
    conversation: Conversation | None
    family: list[Run] = Field(description="all runs of its tree of forks, each after its origin")
    children: list[Run] = Field(description="the runs that it spawned")
    machine: dict[str, Any] | None


class Entry(BaseModel):
    run: str
    seq: int
    at: float
    epoch: int | None
    kind: str
    op: str | None
    data: dict[str, Any]


class Snapshot(BaseModel):
    id: str
    run: str | None
    epoch: int
    seq: int
    parent: str | None
    manifest: str
    bytes: int
    pause_ms: float | None
    freeze_ms: float | None
    created_at: float
    detail: dict[str, Any] | None
    pinned: bool
    reclaimed_at: float | None


class Verified(BaseModel):
    """`snapshots`: what is wrong with each snapshot that the run may be restored from. `problems`:
    each with all runs that it affects, unfinished or with kept snapshots.
    """

    run: str
    snapshots: list[dict[str, Any]]
    problems: list[dict[str, Any]]


class Collected(BaseModel):
    """`reclaimed`: snapshots and templates that are no longer kept. `bytes`: of the removed files;
    `young_bytes`: of those to be removed later; `kept_bytes`: of all others. Templates are built
    upon bases.
    """

    dry_run: bool
    reclaimed: list[dict[str, Any]]
    manifests: int
    layers: int
    values: int
    bytes: int
    young_bytes: int
    kept_bytes: int
    kept_snapshots: int
    kept_templates: list[dict[str, Any]]
    kept_bases: int
    problems: list[str]


class Backup(BaseModel):
    """`problems`: files that were missing or damaged, and so are not in the backup."""

    directory: str
    format: str
    version: int
    torpor: str
    made_at: float
    runs: int
    unfinished: int
    snapshots: int
    key: bool
    files: int
    bytes: int
    problems: list[str]
