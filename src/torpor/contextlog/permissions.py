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

from sqlalchemy import Connection, insert, or_, select, update

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
    mine = select(_permissions.c.run, _permissions.c.scope).where(_permissions.c.wait == wait)
    asked = c.execute(mine).first()
    if asked is None:
        return None
    query = (
        select(_waits.c.id, _waits.c.by, _waits.c.value)
        .join_from(_permissions, _waits, _permissions.c.wait == _waits.c.id)
        .where(_permissions.c.run == asked.run, _permissions.c.scope == asked.scope)
        .where(_waits.c.state == _COMPLETED)
        .order_by(_waits.c.id)
    )
    for found, by, value in c.execute(query):
        if permissions.decision_of(value).decision == RUN:
            return {"wait": found, "by": by}
    return None


def open_alike(c: Connection, wait: WaitId) -> list[WaitId]:
    """The other open permissions of the same run and scope."""
    mine = select(_permissions.c.run, _permissions.c.scope).where(_permissions.c.wait == wait)
    asked = c.execute(mine).first()
    if asked is None:
        return []
    query = (
        select(_waits.c.id)
        .join_from(_permissions, _waits, _permissions.c.wait == _waits.c.id)
        .where(_permissions.c.run == asked.run, _permissions.c.scope == asked.scope)
        .where(_waits.c.state == _OPEN, _waits.c.id != wait)
        .order_by(_waits.c.id)
    )
    return [WaitId(each) for each in c.scalars(query)]


def permits(c: Connection, run: RunId, op: OpId, permission: OpId, action: Action) -> Verdict:
    """Whether operation `op` of the run may do `action`, for which it names `permission`. If so,
    that is used from now on, by it alone. To be called in the write that begins `op`; asked again
    for the same `op`, after a crash, it says the same."""
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
    mine = (
        select(_permissions.c.run, _permissions.c.scope, _runs.c.agent)
        .join_from(_permissions, _runs, _permissions.c.run == _runs.c.id)
        .where(_permissions.c.wait == wait)
    )
    asked = c.execute(mine).first()
    if asked is None:
        return None
    query = (
        select(_waits.c.id, _waits.c.value)
        .join_from(_permissions, _waits, _permissions.c.wait == _waits.c.id)
        .join(_runs, _permissions.c.run == _runs.c.id)
        .where(_permissions.c.scope == asked.scope, _waits.c.state == _COMPLETED)
        .where(_waits.c.id != wait)
        .where(_runs.c.agent.is_not_distinct_from(asked.agent))
        .order_by((_permissions.c.run == asked.run).desc(), _waits.c.completed_at.desc())
        .limit(_LOOKED_THROUGH)
    )
    for found, value in c.execute(query):
        if permissions.decision_of(value).allowed:
            return dict(c.scalars(select(_waits.c.data).where(_waits.c.id == found)).one())
    return None
