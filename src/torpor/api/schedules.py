"""Schedules over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from pydantic import Field

from torpor.api.routing import Router, Uses
from torpor.core.schedules import JITTER_S_MAX, Missed, Overlap
from torpor.core.starting import PRIORITY_MAX
from torpor.service.schedules import Schedule, ScheduleSettings
from torpor.web.requests import Env, JsonObject, ShortText, Strict


class ScheduleRequest(Strict):
    agent: ShortText = Field(description="FILE, FILE:AGENT, or AGENT if one file has it")
    cron: ShortText = Field(description='"30 8 * * mon-fri"')
    zone: ShortText = Field(default="UTC", description='"Europe/Berlin"')
    input: JsonObject = Field(default={})
    jitter_s: float = Field(default=0.0, ge=0, le=JITTER_S_MAX)
    overlap: Overlap = "skip"
    missed: Missed = "once"
    queue: ShortText | None = None
    priority: int = Field(default=0, ge=-PRIORITY_MAX, le=PRIORITY_MAX)
    env: Env = Field(default={}, description="environment variables of its runs")
    replace: bool = Field(
        default=False, description=("replace an existing schedule of this name that differs")
    )


class PauseRequest(Strict):
    paused: bool


router = Router("/v1/schedules")


@router.get("")
async def schedules(service: Uses) -> Sequence[Schedule]:
    """List schedules."""
    return await service.schedules.list()


@router.put("/{name}")
async def add(name: str, body: ScheduleRequest, service: Uses) -> Schedule:
    """Add a schedule. Adding the same one again changes nothing: its name identifies it."""
    settings = cast(ScheduleSettings, body.model_dump(exclude={"replace"}))
    return await service.schedules.add(name, settings, replace=body.replace)


@router.patch("/{name}")
async def pause(name: str, body: PauseRequest, service: Uses) -> Schedule:
    """Pause or resume a schedule."""
    return await service.schedules.pause(name, body.paused)


@router.delete("/{name}")
async def remove(name: str, service: Uses) -> Schedule:
    """Remove a schedule. Its runs stay."""
    return await service.schedules.remove(name)
