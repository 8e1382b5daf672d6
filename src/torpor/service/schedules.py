"""Schedules: runs that start by the calendar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NotRequired, Protocol

from pydantic import Field
from typing_extensions import TypedDict

from torpor.core.schedules import Missed, Overlap
from torpor.service.shapes import Object, closed


@closed
class Schedule(TypedDict):
    """`next_time` is by the clock, `next_at` includes the jitter."""

    name: str
    agent: str
    origin: Annotated[str, Field(description="where its agent comes from; empty means anywhere")]
    input: Object
    cron: str
    zone: str
    jitter_s: float
    overlap: str
    missed: str
    queue: str | None
    priority: int
    env: Annotated[list[str], Field(description=("the names of its environment variables"))]
    paused: bool
    made_at: float
    next_time: float | None
    next_at: float | None
    last_time: float | None
    last_run: str | None
    trouble: str | None


class ScheduleSettings(TypedDict):
    """Without `env`, a schedule that there is keeps its environment variables."""

    agent: str
    cron: str
    zone: str
    input: Mapping[str, Any]
    jitter_s: float
    overlap: Overlap
    missed: Missed
    queue: str | None
    priority: int
    env: NotRequired[Mapping[str, str]]


class Schedules(Protocol):
    async def list(self) -> Sequence[Schedule]: ...

    async def add(self, name: str, settings: ScheduleSettings, *, replace: bool) -> Schedule:
        """The same twice is one. Raises Invalid, NotFound (no such agent), Conflict (there is one
        that says otherwise, and it is not to be replaced)."""
        ...

    async def pause(self, name: str, paused: bool) -> Schedule:
        """A paused schedule starts nothing. Resumed, it goes on with its next time. Raises
        NotFound."""
        ...

    async def remove(self, name: str) -> Schedule:
        """What it was; its runs stay. Raises NotFound."""
        ...
