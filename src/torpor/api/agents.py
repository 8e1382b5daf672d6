"""Agents over HTTP: deployed, found, retired."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from torpor.api import limits
from torpor.api.routing import Closing, Router, Uses, events
from torpor.core.agentfile import (
    DISK_MIB_MAX,
    DISK_MIB_MIN,
    FILES_BYTES_MAX,
    FILES_MAX,
    AgentSource,
)
from torpor.core.egress import parse_egress
from torpor.core.keep import parse_keep
from torpor.core.rules import parse_rules
from torpor.core.sizes import MEMORY_MIB_MAX, MEMORY_MIB_MIN
from torpor.core.webhooks import check_webhooks
from torpor.engine import registry
from torpor.service.agents import Agent, Deployment, DescribedAgent
from torpor.web import stream
from torpor.web.requests import EngineName, Env, ShortText, Strict, sound, valid


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


def _check_rules(given: dict[str, Any]) -> None:
    registry.checked(parse_rules(given, "rules"), "rules")


Webhooks = Annotated[dict[str, str], valid(lambda table: check_webhooks(table, "webhooks"))]


class DeployRequest(Strict):
    entry: str
    files: dict[
        Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(_path)],
        Annotated[bytes, BeforeValidator(_decoded)],
    ] = Field(max_length=FILES_MAX, description="base64 of each file, by relative path")
    executable: list[Annotated[str, Field(max_length=1024)]] = Field(
        default=[], max_length=FILES_MAX, description=("which of the files are executable")
    )
    requires_python: Annotated[str, Field(max_length=200)] = ""
    dependencies: list[Annotated[str, Field(max_length=1000), AfterValidator(_requirement)]] = (
        Field(default=[], max_length=1000)
    )
    memory_mib: int = Field(default=512, ge=MEMORY_MIB_MIN, le=MEMORY_MIB_MAX, multiple_of=2)
    disk_mib: int = Field(default=2048, ge=DISK_MIB_MIN, le=DISK_MIB_MAX, multiple_of=2)
    env: Env = Field(default={}, description=("environment variables, set before the import"))
    egress: Annotated[list[dict[str, Any]], valid(lambda given: parse_egress(given, "egress"))] = (
        Field(default=[], description="what it may reach: [[tool.torpor.egress]]")
    )
    keep: Annotated[str, valid(lambda text: parse_keep(text, "keep"))] = Field(
        default="", description='how long snapshots are kept: "last 3", "7d", "all"'
    )
    on_divergence: Literal["stop", "fork", "latest"] = "stop"
    rules: Annotated[dict[str, Any], valid(_check_rules)] = Field(
        default={}, description="rules for its runs, as in [tool.torpor]: `queue`, …"
    )
    webhooks: Webhooks = Field(default={}, description="URLs that its waits may notify, by name")
    engine: EngineName | None = Field(
        default=None, description=("by default the one in `rules`, or else the server's")
    )
    name: ShortText | None = Field(default=None, description=("by default the name of the entry"))
    origin: Annotated[str, Field(max_length=4096), AfterValidator(sound)] = Field(
        default="",
        description="where it comes from: a path, or a repository's address "
        "and a path in it. Agents of the same name that come from "
        "elsewhere are different agents",
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
            egress=tuple(self.egress),
            keep=self.keep,
            on_divergence=self.on_divergence,
            rules=parse_rules(self.rules, "rules"),
            webhooks=self.webhooks,
            name=self.name or "",
            origin=self.origin,
        )


class AgentQuery(Strict):
    version: ShortText | None = Field(default=None, description="by default the current one")
    engine: EngineName | None = None


router = Router()


@router.post("/agents", response_class=StreamingResponse)
async def deploy(
    body: DeployRequest, service: Uses, closing: Closing, request: Request
) -> StreamingResponse:
    """Deploy an agent: make its template. Events: `progress`…, then `deployed` or `error`."""
    limits.forget_body(request)
    work = partial(service.agents.deploy, body.source(), engine=body.engine)
    return events(stream.progress(work, "deployed", closing))


@router.get("/agents")
async def agents(service: Uses) -> Sequence[Agent]:
    """List deployed agents."""
    return await service.agents.list()


@router.get("/agents/{ref:path}")
async def agent(ref: str, service: Uses, query: Annotated[AgentQuery, Query()]) -> DescribedAgent:
    """The agent that a run by this name would start. `agent.schema` is the JSON Schema of its
    input, if its annotations define one.
    """
    return await service.agents.get(ref, query.version, query.engine)


@router.delete("/agents")
async def retire(
    service: Uses,
    agent: Annotated[ShortText, Query(description=("its name, or where it comes from"))],
) -> Deployment:
    """Retire an agent: its name starts nothing any more. Its runs stay."""
    return await service.agents.retire(agent)
