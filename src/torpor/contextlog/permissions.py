"""Which decisions about permissions count for which operation.

Each wait of kind `permission` that was opened in a run has a row here: the digest of the exact
action, the scope of what "for this run" covers, and which operation has used it. These rows are the
run's own: a fork shares the log in which its origin was allowed something, but not the row, and an
export has none. So a decision counts in the run, on the deployment, for which a person gave it, and
nowhere else (`torpor.contextlog.forks` opens anew what a fork has not used yet).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, and_, insert, or_, select, update

from torpor.contextlog import schema
from torpor.core import permissions
from torpor.core.ids import OpId, RunId, WaitId
from torpor.core.permissions import ONCE, RUN, Action

_permissions, _waits, _runs = schema.permissions, schema.waits, schema.runs
_COMPLETED, _OPEN = "completed", "open"
_LOOKED_THROUGH = 50  # of the decisions about a scope, the latest


@dataclass(frozen=True)
class Verdict:
    """Whether an operation may go out. `reason` says why not, for the agent; `wait` and `by` are of
    the decision that lets it."""

    allowed: bool
    reason: str = ""
    wait: WaitId | None = None
    by: str | None = None


def remember(c: Connection, wait: WaitId, run: RunId, op: OpId, data: Any) -> None:
    """`wait` is open in the run, for the action that `data` has."""
    c.execute(
        insert(_permissions),
        [
            {
                "wait": wait,
                "run": run,
                "op": op,
                "digest": permissions.digest(data),
                "scope": permissions.scope(data),
            }
        ],
    )


def given_for_run(c: Connection, wait: WaitId) -> dict[str, Any] | None:
    """{by, wait} of the decision "for this run" that covers the action of `wait`, if its run has
    one."""
    for other in c.execute(_in_scope(wait, _COMPLETED)):
        if permissions.decision_of(other.value).decision == RUN:
            return {"wait": other.id, "by": other.by}
    return None


def open_alike(c: Connection, wait: WaitId) -> list[WaitId]:
    """The other open permissions of the same run and scope."""
    return sorted(WaitId(other.id) for other in c.execute(_in_scope(wait, _OPEN)))


def _in_scope(wait: WaitId, state: str) -> Select[Any]:
    """The other permissions in that state of the run of `wait`, with its scope."""
    mine = _permissions.alias()
    same = and_(mine.c.run == _permissions.c.run, mine.c.scope == _permissions.c.scope)
    return (
        select(_waits.c.id, _waits.c.by, _waits.c.value)
        .select_from(mine)
        .join(_permissions, same)
        .join(_waits, _permissions.c.wait == _waits.c.id)
        .where(mine.c.wait == wait, _waits.c.id != wait, _waits.c.state == state)
    )


def permits(c: Connection, run: RunId, op: OpId, permission: OpId, action: Action) -> Verdict:
    """Whether operation `op` of the run may do `action`, for which it names `permission`. If so,
    that is used from now on, by it alone. To be called in the write that begins `op`; called
    again for the same `op`, after a crash, it says the same."""
    query = (
        select(_permissions, _waits.c.state, _waits.c.value, _waits.c.by)
        .join_from(_permissions, _waits, _permissions.c.wait == _waits.c.id)
        .where(_permissions.c.run == run, _permissions.c.op == permission)
    )
    row = c.execute(query).first()
    if row is None:
        return Verdict(False, f"this run has no permission {permission}: ask again")
    if row.state == _OPEN:
        return Verdict(False, f"nobody has decided about {permission} yet")
    decision = permissions.decision_of(row.value)
    if not decision.allowed:
        return Verdict(False, permissions.denial(decision, str(permission)))
    if decision.decision == RUN:
        if row.scope != permissions.scope(action):
            return Verdict(False, f"{permission} was given for something else: ask again")
    elif row.digest != permissions.digest(action):
        return Verdict(False, f"this is not what {permission} was given for: ask again")
    free = or_(_permissions.c.used_by.is_(None), _permissions.c.used_by == op)
    used = update(_permissions).where(_permissions.c.wait == row.wait, free).values(used_by=op)
    if c.execute(used).rowcount == 0 and decision.decision == ONCE:
        return Verdict(False, f"{permission} was given once, and {row.used_by} has used it")
    return Verdict(True, wait=WaitId(row.wait), by=row.by)


def last_allowed(c: Connection, wait: WaitId) -> Mapping[str, Any] | None:
    """The action that was allowed last, of those with the same scope as that of `wait`: in its run,
    or else in another of the same agent."""
    mine, my_run = _permissions.alias(), _runs.alias()
    same = and_(mine.c.scope == _permissions.c.scope, mine.c.wait != _permissions.c.wait)
    of_agent = my_run.c.agent.is_not_distinct_from(_runs.c.agent)
    query = (
        select(_waits.c.id, _waits.c.value)
        .select_from(mine)
        .join(my_run, mine.c.run == my_run.c.id)
        .join(_permissions, same)
        .join(_runs, and_(_permissions.c.run == _runs.c.id, of_agent))
        .join(_waits, _permissions.c.wait == _waits.c.id)
        .where(mine.c.wait == wait, _waits.c.state == _COMPLETED)
        .order_by((_permissions.c.run == mine.c.run).desc(), _waits.c.completed_at.desc())
        .limit(_LOOKED_THROUGH)
    )
    for found, value in c.execute(query):
        if permissions.decision_of(value).allowed:
            return dict(c.scalars(select(_waits.c.data).where(_waits.c.id == found)).one())
    return None
