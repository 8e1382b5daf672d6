"""Schedules fired when their times have come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import runs, schedules
from torpor.contextlog.deployments import Preference, choose_current
from torpor.contextlog.runs import RunRow, Scheduled, create_run, request_cancel
from torpor.contextlog.schedules import ScheduleRow
from torpor.core.errors import CallerError, Conflict
from torpor.core.ids import RunId
from torpor.core.starting import Start
from torpor.core.states import FINAL
from torpor.policy.inputs import check_input
from torpor.policy.schedules import Times, due

Object = dict[str, Any]

MOST = 100  # fired at once: others want to write, too


def fire_due(c: Connection, now: float) -> None:
    """Make the runs that are due, in this write."""
    for row in schedules.due_schedules(c, now, MOST):
        fire(c, row, now)


def fire(c: Connection, row: ScheduleRow, now: float) -> None:
    assert row.next_time is not None
    found = due(row.name, times_of(row.to_json()), row.missed, row.next_time, now)
    values: Object = next_fire(row, found.next_time)
    if found.missed:
        values["trouble"] = "some of its times passed while no server was there"
    for at in found.times:
        values["last_time"] = at
        try:
            started = _start(c, row, at, now)
        except CallerError as error:
            values["trouble"] = error.message
        else:
            values |= {"last_run": started, "trouble": None}
            row = schedules.ScheduleRow(**{**vars(row), "last_run": started})
    schedules.set_schedule(c, row.name, **values)


def _start(c: Connection, row: ScheduleRow, at: float, now: float) -> RunId:
    """The run for the time `at`. Raises CallerError if there is to be none."""
    before = _unfinished(c, row.last_run)
    after = None
    if before is not None:
        match row.overlap:
            case "skip":
                raise Conflict(f"{before.id} had not ended")
            case "queue":
                after = before.id
            case "cancel-old":
                request_cancel(c, before.id, now)
    chosen = choose_current(c, row.agent, Preference(origin=row.origin))
    check_input(chosen.agent, row.input)
    run = create_run(
        c,
        version=chosen.row.version,
        agent=chosen.agent["name"],
        input=row.input,
        id_key=f"schedule {row.name} {at:.0f}",
        start=Start(queue=row.queue, priority=row.priority, env=row.env),
        cause=Scheduled(row.name, after),
        now=now,
    )
    return run.id


def _unfinished(c: Connection, run: RunId | None) -> RunRow | None:
    row = None if run is None else runs.newest(c, run)
    return None if row is None or row.state in FINAL else row


def next_fire(row: ScheduleRow, time: float | None) -> Object:
    """The columns that say when the schedule fires next: for `time`, by the calendar."""
    at = None if time is None else times_of(row.to_json()).fires_at(row.name, time)
    return {"next_time": time, "next_at": at}


def times_of(settings: Mapping[str, Any]) -> Times:
    return Times(settings["cron"], settings["zone"], settings["jitter_s"])
