"""What agents may reach, and what became of their requests, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import Query
from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.service.egress import (
    EXCHANGES,
    EXCHANGES_MAX,
    Exchange,
    ExchangeFilter,
    Judged,
    Reach,
)
from torpor.web.requests import ShortText, Strict, Text


class ReachQuery(Strict):
    agent: ShortText = Field(description="its name, or where it comes from, or the end of that")
    exact: bool = Field(default=False, description="only where it comes from is meant")


class TestRequest(Strict):
    agent: ShortText = Field(description="as for `rules`")
    method: Annotated[Text, Field(min_length=1, max_length=40)]
    url: Annotated[Text, Field(min_length=1, max_length=16_384)] = Field(
        description="`https://…`, `http://…`, or `tcp://HOST:PORT`"
    )


class LogQuery(Strict):
    run: ShortText | None = None
    denied: bool = Field(default=False, description="only what was refused")
    since: float | None = Field(
        default=None, ge=0, description="only what ended, was refused or was asked for since then"
    )
    limit: int = Field(default=EXCHANGES, ge=1, le=EXCHANGES_MAX)


router = Router("/v1/egress")


@router.get("")
async def log(service: Uses, query: Annotated[LogQuery, Query()]) -> Sequence[Exchange]:
    """List requests that left machines, were refused, or wait for a permission: the newest, oldest
    first.
    """
    return await service.egress.log(ExchangeFilter(**query.model_dump()))


@router.get("/rules")
async def rules(service: Uses, query: Annotated[ReachQuery, Query()]) -> Reach:
    """Show what the current version of an agent may reach."""
    return await service.egress.reach(query.agent, exact=query.exact)


@router.post("/test")
async def test(body: TestRequest, service: Uses) -> Judged:
    """Judge a request of an agent, and say which rule decides. Nothing is sent."""
    return await service.egress.test(body.agent, body.method, body.url)
