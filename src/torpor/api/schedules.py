"""Schedules over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, BaseModel, Field

from torpor.core.schedules import Missed, Overlap
from torpor.web.problems import Json
from torpor.web.shapes import PROBLEMS, Env, ShortText, Strict, sound

Object = dict[str, Any]


class Schedules(Protocol):
    """What this needs of the control plane (`torpor.control.scheduler.schedules`)."""

    async def list(self) -> list[Object]: ...

    async def add(self, name: str, settings: Mapping[str, Any], *, replace: bool) -> Object: ...

    async def pause(self, name: str, paused: bool) -> Object: ...

    async def remove(self, name: str) -> Object: ...


class ScheduleRequest(Strict):
    agent: ShortText = Field(description="FILE, FILE:AGENT, or AGENT if one file has it")
    cron: ShortText = Field(description='"30 8 * * mon-fri"')
    zone: ShortText = Field(default="UTC", description='"Europe/Berlin"')
    input: Annotated[dict[str, Any], AfterValidator(sound)] = Field(default={})
    jitter_s: float = Field(default=0.0, ge=0, le=86400)
    overlap: Overlap = "skip"
    missed: Missed = "once"
    queue: ShortText | None = None
    priority: int = Field(default=0, ge=-1000, le=1000)
    env: Env = Field(default={}, description="environment variables of its runs")
    replace: bool = Field(
        default=False, description="replace an existing schedule of this name that differs"
    )


class PauseRequest(Strict):
    paused: bool


class Schedule(BaseModel):
    """`next_time` is by the clock, `next_at` includes the jitter."""

    name: str
    agent: str
    input: dict[str, Any]
    cron: str
    zone: str
    jitter_s: float
    overlap: str
    missed: str
    queue: str | None
    priority: int
    env: list[str] = Field(description="the names of its environment variables")
    paused: bool
    made_at: float
    next_time: float | None
    next_at: float | None
    last_time: float | None
    last_run: str | None
    trouble: str | None


def _schedules(request: Request) -> Schedules:
    schedules: Schedules = request.app.state.service.schedules
    return schedules


Uses = Annotated[Schedules, Depends(_schedules)]

router = APIRouter(prefix="/v1/schedules", responses=PROBLEMS)


@router.get("", responses={200: {"model": list[Schedule]}})
async def schedules(uses: Uses) -> Json:
    """List schedules."""
    return Json(await uses.list())


@router.put("/{name}", responses={200: {"model": Schedule}})
async def add(name: str, body: ScheduleRequest, uses: Uses) -> Json:
    """Add a schedule. Adding the same one again changes nothing: its name identifies it."""
    settings = body.model_dump(exclude={"replace"})
    return Json(await uses.add(name, settings, replace=body.replace))


@router.patch("/{name}", responses={200: {"model": Schedule}})
async def pause(name: str, body: PauseRequest, uses: Uses) -> Json:
    """Pause or resume a schedule."""
    return Json(await uses.pause(name, body.paused))


@router.delete("/{name}", responses={200: {"model": Schedule}})
async def remove(name: str, uses: Uses) -> Json:
    """Remove a schedule. Its runs stay."""
    return Json(await uses.remove(name))
