"""Schedules, as people see and change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from torpor.contextlog import schedules
from torpor.contextlog.deployments import choose_current
from torpor.contextlog.schedules import SETTINGS, ScheduleRow
from torpor.control.scheduler.schedules import next_fire, times_of
from torpor.core.clock import SYSTEM_CLOCK, Clock
from torpor.core.environment import check_env
from torpor.core.errors import Invalid
from torpor.core.schedules import JITTER_S_MAX, MISSED, OVERLAPS
from torpor.core.starting import PRIORITY_MAX, check_name
from torpor.logstore.protocol import Store
from torpor.policy.inputs import check_input
from torpor.policy.schedules import first_time
from torpor.service.schedules import Schedule, ScheduleSettings
from torpor.service.shapes import reply

Object = dict[str, Any]


class Schedules:
    """See `torpor.service.schedules.Schedules`."""

    def __init__(self, store: Store, clock: Clock = SYSTEM_CLOCK) -> None:
        self._store, self._clock = store, clock

    async def list(self) -> Sequence[Schedule]:
        rows = await self._store.read(schedules.list_schedules)
        return [_reply(row) for row in rows]

    async def add(self, name: str, settings: ScheduleSettings, *, replace: bool) -> Schedule:
        check_name(name, "schedule")
        checked = _checked(settings)
        times = times_of(checked)

        def write(c: Connection) -> ScheduleRow:
            chosen = choose_current(c, checked["agent"])
            check_input(chosen.agent, checked["input"])
            now = self._clock.now()
            first = first_time(times, now)
            at = None if first is None else times.fires_at(name, first)
            whole = checked | {"origin": chosen.origin}
            if "env" not in checked:  # what was left out stays as it is
                known = schedules.find_schedule(c, name)
                whole["env"] = known.env if known else {}
            return schedules.add_schedule(c, name, whole, first, at, now, replace=replace)

        return _reply(await self._store.write(write))

    async def pause(self, name: str, paused: bool) -> Schedule:
        """Times that pass while it is paused are not missed."""

        def write(c: Connection) -> ScheduleRow:
            row, now = schedules.get_schedule(c, name), self._clock.now()
            values: Object = {"paused": paused}
            if row.paused and not paused:
                values |= next_fire(row, first_time(times_of(row.to_json()), now))
            schedules.set_schedule(c, name, **values)
            return schedules.get_schedule(c, name)

        return _reply(await self._store.write(write))

    async def remove(self, name: str) -> Schedule:
        def write(c: Connection) -> ScheduleRow:
            row = schedules.get_schedule(c, name)
            schedules.remove_schedule(c, name)
            return row

        return _reply(await self._store.write(write))


def _reply(row: ScheduleRow) -> Schedule:
    return reply(Schedule, row.to_json())


def _checked(settings: ScheduleSettings) -> Object:
    given: Mapping[str, Any] = settings
    checked = {key: given[key] for key in SETTINGS if key != "env"}
    if "env" in settings:
        checked["env"] = check_env(settings["env"], "env")
    times_of(checked).check()
    for key, allowed in (("overlap", OVERLAPS), ("missed", MISSED)):
        if checked[key] not in allowed:
            raise Invalid(f"{key} {checked[key]!r} is none of {', '.join(allowed)}")
    if not 0 <= checked["jitter_s"] <= JITTER_S_MAX:
        raise Invalid("a jitter must be from 0 seconds to a day")
    if not -PRIORITY_MAX <= checked["priority"] <= PRIORITY_MAX:
        raise Invalid(f"a priority must be from {-PRIORITY_MAX} to {PRIORITY_MAX}")
    if checked["queue"] is not None:
        check_name(checked["queue"], "queue")
    return checked
