"""What becomes of a run that is nobody's, that waits, or whose carrier was lost: a decision table.

Whatever is true of a run, exactly one row matches it (`tests/unit/policy` tries all there is), so
nothing depends on the order of the rows, and each can be read alone. A column that a row does not
name may hold anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from torpor.core.states import FINAL, RunState
from torpor.core.workers import Holder


class Driver(Enum):
    """Who is at it, of this server."""

    NONE = "no driver"
    CLAIMS = "a driver that is about to claim it"
    HOLDS = "a driver that has claimed it, and needs what carries its agent"
    LOST = "a driver that has lost what carried its agent, or the epoch"


class Origins(Enum):
    """What there is to restore its agent from: snapshots, the template, or the log alone."""

    UNTRIED = "some that have not been tried"
    LATER = "the host cannot restore any just now"
    USELESS = "none serves on this host"
    NOT_EVEN_NEW = "none serves, and no new template could be made"


@dataclass(frozen=True)
class Facts:
    state: RunState
    driver: Driver = Driver.NONE
    ready: bool = False  # something happened that its last machine may not have seen
    room: bool = True  # its engine is served here and can carry one more
    handing_over: bool = False  # this server stops
    cancel: bool = False  # it is asked for
    spent: bool = False  # it lost too many carriers in a row before it got anything done
    origins: Origins = Origins.UNTRIED
    holder: Holder = Holder.NONE  # of one that is running, beside this server


class Act(Enum):
    LEAVE = "nothing, now: who may change that will ask again"
    CLAIM = "claim it, under a new epoch"
    RESTORE = "restore its agent from the best origin that has not been tried"
    WAIT = "try all origins again in a while"
    RENEW = "make a new template of its source, and restore that"
    CANCEL = "end it: cancelled"
    GIVE_UP = "end it: its machines were lost again and again"
    CANNOT_RESTORE = "end it: nothing restores it"


@dataclass(frozen=True)
class Row:
    name: str
    act: Act
    when: Mapping[str, Any]  # column → the value, or the set of values, that it must have

    def matches(self, facts: Facts) -> bool:
        return all(_is(getattr(facts, column), wanted) for column, wanted in self.when.items())


def _is(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, frozenset) else value is wanted


def _row(name: str, act: Act, **when: Any) -> Row:
    assert when.keys() <= COLUMNS, when
    return Row(name, act, when)


COLUMNS = {field.name for field in fields(Facts)}
_QUEUED, _RUNNING, _SUSPENDED = RunState.QUEUED, RunState.RUNNING, RunState.SUSPENDED
_GOING_ON = frozenset(RunState) - FINAL
_NOT_RUNNING = frozenset({_QUEUED, _SUSPENDED})
_AT_IT = frozenset({Driver.HOLDS, Driver.LOST})
_FREE: dict[str, Any] = {"driver": Driver.NONE, "handing_over": False}
_WANTED: dict[str, Any] = {"cancel": False, **_FREE}
_HELD: dict[str, Any] = {"state": _RUNNING, "driver": Driver.HOLDS, "handing_over": False}
_LATE: dict[str, Any] = {"state": _RUNNING, "holder": Holder.LATE, **_FREE}
_LOSES: dict[str, Any] = {"state": _RUNNING, "driver": Driver.LOST, "handing_over": False}
_LOST: dict[str, Any] = {"holder": Holder.NONE, **_LOSES}
_OTHERS = frozenset({Holder.OTHER, Holder.LATE})
_TRIES = _HELD | {"cancel": False}

TABLE = (
    _row("it has ended", Act.LEAVE, state=FINAL),
    _row("it is the next server's", Act.LEAVE, state=_GOING_ON, handing_over=True),
    # Nobody is at it.
    _row("it starts", Act.CLAIM, state=_QUEUED, room=True, **_WANTED),
    _row("it waits to start", Act.LEAVE, state=_QUEUED, room=False, **_WANTED),
    _row("it is woken", Act.CLAIM, state=_SUSPENDED, ready=True, room=True, **_WANTED),
    _row("it waits to be woken", Act.LEAVE, state=_SUSPENDED, ready=True, room=False, **_WANTED),
    _row("it sleeps", Act.LEAVE, state=_SUSPENDED, ready=False, **_WANTED),
    _row("it need not be woken", Act.CANCEL, state=_NOT_RUNNING, cancel=True, **_FREE),
    # Its server ended, and its machine with that. It had its room.
    _row("it is recovered", Act.CLAIM, state=_RUNNING, holder=Holder.NONE, **_FREE),
    # Another worker carries it, or has not said for too long that it does.
    _row("it is another's", Act.LEAVE, state=_RUNNING, holder=Holder.OTHER, **_FREE),
    _row("it is taken over", Act.CLAIM, room=True, **_LATE),
    _row("it waits to be taken over", Act.LEAVE, room=False, **_LATE),
    # A driver is.
    _row(
        "it is being claimed",
        Act.LEAVE,
        state=_GOING_ON,
        driver=Driver.CLAIMS,
        handing_over=False,
    ),
    # Another took over its epoch, and brought it to rest.
    _row("it was taken", Act.LEAVE, state=_NOT_RUNNING, driver=_AT_IT, handing_over=False),
    _row("it was taken over", Act.LEAVE, holder=_OTHERS, **_LOSES),
    _row("it goes on from the log", Act.CLAIM, spent=False, **_LOST),
    _row("it gets nowhere", Act.GIVE_UP, spent=True, cancel=False, **_LOST),
    _row("it need get nowhere", Act.CANCEL, spent=True, cancel=True, **_LOST),
    _row("it is not wanted any more", Act.CANCEL, cancel=True, **_HELD),
    _row("it is restored", Act.RESTORE, origins=Origins.UNTRIED, **_TRIES),
    _row("its host has trouble", Act.WAIT, origins=Origins.LATER, **_TRIES),
    _row("it begins anew, with its log", Act.RENEW, origins=Origins.USELESS, **_TRIES),
    _row("it is beyond help", Act.CANNOT_RESTORE, origins=Origins.NOT_EVEN_NEW, **_TRIES),
)


def decide(facts: Facts) -> Act:
    (row,) = (row for row in TABLE if row.matches(facts))
    return row.act
