"""Schedules: fired when their times have come, and as people see and change them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import runs, schedules
from torpor.contextlog.deployments import Preference, choose_current
from torpor.contextlog.runs import RunRow, Scheduled, create_run, request_cancel
from torpor.contextlog.schedules import SETTINGS, ScheduleRow
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.environment import check_env
from torpor.core.errors import CallerError, Conflict, Invalid
from torpor.core.ids import RunId
from torpor.core.rules import check_name
from torpor.core.schedules import MISSED, OVERLAPS
from torpor.core.starting import PRIORITY_MAX, Start
from torpor.core.states import FINAL
from torpor.logstore.protocol import Store
from torpor.policy.inputs import check_input
from torpor.policy.schedules import Times, due, first_time

Object = dict[str, Any]

MOST = 100  # fired at once: others want to write, too
JITTER_S_MAX = 86400.0


class Schedules:
    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock

    async def list(self) -> list[Object]:
        rows = await self._store.read(schedules.list_schedules)
        return [row.to_json() for row in rows]

    async def add(self, name: str, settings: Mapping[str, Any], *, replace: bool) -> Object:
        """Raises Invalid, NotFound (no such agent), Conflict."""
        check_name(name, "schedule")
        given = _checked(settings)
        times = _times(given)

        def write(c: Connection) -> ScheduleRow:
            chosen = choose_current(c, given["agent"])
            check_input(chosen.agent, given["input"])
            now = self._clock.now()
            first = first_time(times, now)
            at = None if first is None else times.fires_at(name, first)
            whole = given | {"origin": chosen.origin}
            if "env" not in given:  # who shows none of it does not change it
                known = schedules.find_schedule(c, name)
                whole["env"] = known.env if known else {}
            return schedules.add_schedule(c, name, whole, first, at, now, replace=replace)

        return (await self._store.write(write)).to_json()

    async def pause(self, name: str, paused: bool) -> Object:
        """A paused schedule fires nothing. Resumed it goes on with its next time: what passed while
        it was paused was not missed."""

        def write(c: Connection) -> ScheduleRow:
            row, now = schedules.get_schedule(c, name), self._clock.now()
            values: Object = {"paused": paused}
            if row.paused and not paused:
                values |= _next(row, first_time(_times(row.to_json()), now))
            schedules.set_schedule(c, name, **values)
            return schedules.get_schedule(c, name)

        return (await self._store.write(write)).to_json()

    async def remove(self, name: str) -> Object:
        """What it was. Its runs stay."""

        def write(c: Connection) -> ScheduleRow:
            row = schedules.get_schedule(c, name)
            schedules.remove_schedule(c, name)
            return row

        return (await self._store.write(write)).to_json()


def fire_due(c: Connection, now: float) -> None:
    """Make the runs that are due, in this write."""
    for row in schedules.due_schedules(c, now, MOST):
        fire(c, row, now)


def fire(c: Connection, row: ScheduleRow, now: float) -> None:
    assert row.next_time is not None
    found = due(row.name, _times(row.to_json()), row.missed, row.next_time, now)
    values: Object = _next(row, found.next_time)
    if found.missed:
        values["trouble"] = "some of its times passed while no server was there"
    for at in found.times:
        values["last_time"] = at
        try:
            made = _start(c, row, at, now)
        except CallerError as error:
            values["trouble"] = error.message
        else:
            values |= {"last_run": made, "trouble": None}
            row = schedules.ScheduleRow(**{**vars(row), "last_run": made})
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
    made = create_run(
        c,
        version=chosen.row.version,
        agent=chosen.agent["name"],
        input=row.input,
        id_key=f"schedule {row.name} {at:.0f}",
        start=Start(queue=row.queue, priority=row.priority, env=row.env),
        scheduled=Scheduled(row.name, after),
        now=now,
    )
    return made.id


def _unfinished(c: Connection, run: RunId | None) -> RunRow | None:
    row = None if run is None else runs.newest(c, run)
    return None if row is None or row.state in FINAL else row


def _next(row: ScheduleRow, time: float | None) -> Object:
    at = None if time is None else _times(row.to_json()).fires_at(row.name, time)
    return {"next_time": time, "next_at": at}


def _times(settings: Mapping[str, Any]) -> Times:
    return Times(settings["cron"], settings["zone"], settings["jitter_s"])


def _checked(settings: Mapping[str, Any]) -> Object:
    given = {key: settings[key] for key in SETTINGS if key != "env"}
    if "env" in settings:
        given["env"] = check_env(settings["env"], "env")
    _times(given).check()
    for key, allowed in (("overlap", OVERLAPS), ("missed", MISSED)):
        if given[key] not in allowed:
            raise Invalid(f"{key} {given[key]!r} is not one of {', '.join(allowed)}")
    if not 0 <= given["jitter_s"] <= JITTER_S_MAX:
        raise Invalid("a jitter must be from 0 seconds to a day")
    if not -PRIORITY_MAX <= given["priority"] <= PRIORITY_MAX:
        raise Invalid(f"a priority must be from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    if given["queue"] is not None:
        check_name(given["queue"], "queue")
    return given
