"""Hooks: where others send signed messages in, that start runs of an agent or are events for them.

A hook is for one agent, by the name it was deployed with, and for runs of its current version.
Without an `event` each message starts a run, whose input is the body, or has it as the parameter
`into`. With one, each message is that event for the run that stands in the body at `run_at`, such
as `data.metadata.run`: a run's id, or the key that it was started with.

A message counts once, by its sender's id of it: a run has that as its id key, an event as its id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.deployments import choose_current
from torpor.contextlog.refs import resolve
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.ids import new_id

PREFIX = "hook_"
HOOKS_MAX = 1000

_hooks = schema.hooks


@dataclass(frozen=True)
class HookRow:
    id: str
    agent: str  # NAME:AGENT
    origin: str  # that agent's
    event: str | None
    run_at: str | None
    into: str | None
    created_at: float
    revoked_at: float | None

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def create_hook(
    c: Connection,
    agent: str,
    *,
    event: str | None = None,
    run_at: str | None = None,
    into: str | None = None,
    now: float,
) -> HookRow:
    """Raises NotFound, Conflict, Invalid: no such agent; what does not go together."""
    if (event is None) != (run_at is None):
        raise Invalid(
            "a hook for an event needs both the event's name and where a message names its run",
            hint="For example: --event paid --run-at data.run. Without both, each "
            "message starts a run.",
        )
    if event is not None and into is not None:
        raise Invalid("an event's body is its data and cannot be passed as a parameter")
    chosen = choose_current(c, agent)
    params = [each["name"] for each in chosen.agent["params"]]
    if into is not None and into not in params and not chosen.agent["open"]:
        raise Invalid(
            f"{chosen.agent['name']} has no parameter {into!r}", hint=f"It has {', '.join(params)}."
        )
    if len(list_hooks(c)) >= HOOKS_MAX:
        raise Conflict(f"there are {HOOKS_MAX} hooks already", hint="Revoke some of them first.")
    hook = new_id("hook")
    row = {
        "id": hook,
        "agent": f"{chosen.row.name}:{chosen.agent['name']}",
        "origin": chosen.origin,
        "event": event,
        "run_at": run_at,
        "into": into,
        "created_at": now,
    }
    c.execute(insert(_hooks), [row])
    return get_hook(c, hook)


def get_hook(c: Connection, ref: str) -> HookRow:
    """The hook whose id is `ref` or alone begins with it. Raises NotFound."""
    hook = resolve(c, _hooks.c.id, ref, what="hook", prefix=PREFIX)
    return _row(c.execute(select(_hooks).filter_by(id=hook)).one())


def open_hook(c: Connection, hook: str) -> HookRow:
    """The hook of exactly this id, if it was not revoked. Raises NotFound."""
    row = c.execute(select(_hooks).filter_by(id=hook, revoked_at=None)).first()
    if row is None:
        raise NotFound("there is no such hook")
    return _row(row)


def list_hooks(c: Connection, *, revoked: bool = False) -> list[HookRow]:
    """Oldest first."""
    query = select(_hooks).order_by(_hooks.c.id)
    if not revoked:
        query = query.where(_hooks.c.revoked_at.is_(None))
    return [_row(row) for row in c.execute(query)]


def revoke_hook(c: Connection, ref: str, now: float) -> HookRow:
    """Take no more messages by it. Raises NotFound, Conflict."""
    row = get_hook(c, ref)
    if row.revoked_at is not None:
        raise Conflict(f"{row.id} was revoked already")
    c.execute(update(_hooks).where(_hooks.c.id == row.id).values(revoked_at=now))
    return get_hook(c, row.id)


def _row(row: Any) -> HookRow:
    return HookRow(**row._mapping)
