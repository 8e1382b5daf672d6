"""Schedules: runs that are started at times.

    schedules row ── next_at has come ──► due times ──► a run each, keyed by schedule and time
                                                        next_time, next_at: one write with that

Firing is one write, and each run has an id key of its schedule and its time: whatever crashes,
no time fires twice, and none is lost. A schedule is known by its name, which is its dedup key:
adding the same once more changes nothing.

What becomes of a run whose predecessor has not ended: it is not made (`skip`); it waits until
that has (`queue`, by `runs.after`); or the predecessor is cancelled (`cancel-old`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.news import Due, report
from torpor.core.errors import Conflict, NotFound
from torpor.core.ids import RunId

_schedules = schema.schedules
# What a person says of one.
SETTINGS = (
    *("agent", "input", "cron", "zone", "jitter_s", "overlap", "missed"),
    *("queue", "priority", "env"),
)


@dataclass(frozen=True)
class ScheduleRow:
    name: str
    agent: str  # whose current version is started, each time
    origin: str  # that agent's
    input: dict[str, Any]
    cron: str
    zone: str
    jitter_s: float
    overlap: str
    missed: str
    queue: str | None
    priority: int
    env: dict[str, str]
    paused: bool
    made_at: float
    next_time: float | None  # as the clock has it
    next_at: float | None  # when it is fired: with jitter
    last_time: float | None
    last_run: RunId | None
    trouble: str | None  # why its last time made no run

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"env": sorted(self.env)}


def add_schedule(
    c: Connection,
    name: str,
    settings: Mapping[str, Any],
    next_time: float | None,
    next_at: float | None,
    now: float,
    *,
    replace: bool,
) -> ScheduleRow:
    """Add a schedule, or with `replace` change the one there is. Raises Conflict if there is one
    that says otherwise."""
    known = find_schedule(c, name)
    if known is None:
        row = {"name": name, "paused": False, "made_at": now, **settings}
        c.execute(insert(_schedules), [row | {"next_time": next_time, "next_at": next_at}])
    elif {key: getattr(known, key) for key in settings} != dict(settings):
        if not replace:
            raise Conflict(
                f"there is already a different schedule {name!r}",
                hint="Use --replace to change it, or another name.",
            )
        set_schedule(c, name, **settings, next_time=next_time, next_at=next_at, trouble=None)
    report(c, Due())
    return get_schedule(c, name)


def set_schedule(c: Connection, name: str, **values: Any) -> None:
    c.execute(update(_schedules).where(_schedules.c.name == name).values(**values))


def remove_schedule(c: Connection, name: str) -> None:
    """Remove a schedule. Its runs stay."""
    c.execute(delete(_schedules).where(_schedules.c.name == name))


def get_schedule(c: Connection, name: str) -> ScheduleRow:
    found = find_schedule(c, name)
    if found is None:
        raise NotFound(f"there is no schedule {name!r}", hint="torpor schedules list shows them.")
    return found


def find_schedule(c: Connection, name: str) -> ScheduleRow | None:
    row = c.execute(select(_schedules).where(_schedules.c.name == name)).first()
    return None if row is None else ScheduleRow(**row._mapping)


def list_schedules(c: Connection) -> list[ScheduleRow]:
    rows = c.execute(select(_schedules).order_by(_schedules.c.name))
    return [ScheduleRow(**row._mapping) for row in rows]


def due_schedules(c: Connection, now: float, most: int) -> list[ScheduleRow]:
    due = select(_schedules).where(_schedules.c.next_at <= now, ~_schedules.c.paused)
    rows = c.execute(due.order_by(_schedules.c.next_at).limit(most))
    return [ScheduleRow(**row._mapping) for row in rows]


def next_due(c: Connection) -> float | None:
    at: float | None = c.scalar(select(func.min(_schedules.c.next_at)).where(~_schedules.c.paused))
    return at
