"""Notices: messages that tell of an open wait, by webhook: at once, and with each reminder.

    queued with its wait ──► tried, perhaps often ──► delivered | failed | dropped (the wait ended)

A notice is written in the transaction that makes its wait, or that reminds of it, so none is lost
and none is for nothing. `torpor.control.service.webhooks` sends it. How each attempt went is an
entry of the run's log (`webhook.sent`, `webhook.failed`), as a reminder is (`wait.reminded`);
nothing is logged for a run that has ended.

Of several webhooks the first is notified at once, the next with each reminder, the last of them
with all further ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from torpor.contextlog import schema
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.news import Due, report
from torpor.core.ids import OpId, RunId, WaitId, new_id
from torpor.core.states import FINAL

QUEUED, DELIVERED, FAILED, DROPPED = "queued", "delivered", "failed", "dropped"
_OPEN = "open"  # as in `waits`, which imports this

_notices, _waits, _runs = schema.notices, schema.waits, schema.runs


@dataclass(frozen=True)
class NoticeRow:
    """`reminder` counts from 1; 0: the wait has begun."""

    id: str
    run: RunId
    wait: WaitId
    webhook: str
    reminder: int
    created_at: float
    state: str
    attempts: int
    next_at: float | None
    why: str | None


def queue_notice(
    c: Connection, run: RunId, wait: WaitId, webhooks: Sequence[str], reminder: int, now: float
) -> None:
    """Queue a notice for the one of `webhooks` whose turn it is."""
    webhook = webhooks[min(reminder, len(webhooks) - 1)]
    row = {"id": new_id("msg"), "run": run, "wait": wait, "webhook": webhook}
    begun = {"reminder": reminder, "created_at": now, "next_at": now}
    c.execute(insert(_notices), [row | begun | {"state": QUEUED, "attempts": 0}])
    report(c, Due())


def remind_due(c: Connection, now: float) -> list[WaitId]:
    """Remind of the open waits whose time for it has come; which those were."""
    due = select(_waits).where(_waits.c.state == _OPEN, _waits.c.remind_at <= now)
    reminded = []
    for row in c.execute(due.order_by(_waits.c.remind_at)).all():
        # Those whose time has passed meanwhile, while no server ran, are one.
        passed = sum(row.created_at + each <= now for each in row.remind_after)
        n, left = max(row.reminded + 1, passed), row.remind_after[passed:]
        remind_at = row.created_at + left[0] if left else None
        changed = {"reminded": n, "remind_at": remind_at}
        c.execute(update(_waits).where(_waits.c.id == row.id).values(**changed))
        details = {"wait": row.id, "reminder": n}
        append(c, row.run, None, [NewEntry("wait.reminded", OpId(row.op), details)], now)
        if row.webhooks:
            queue_notice(c, row.run, row.id, row.webhooks, n, now)
        reminded.append(row.id)
    return reminded


def due_notices(c: Connection, now: float, limit: int) -> list[NoticeRow]:
    """Queued ones whose time has come, earliest first."""
    due = select(_notices).where(_notices.c.state == QUEUED, _notices.c.next_at <= now)
    return [_row(row) for row in c.execute(due.order_by(_notices.c.next_at).limit(limit))]


def next_notice(c: Connection) -> float | None:
    """When the next reminder or attempt is due."""
    queued = select(func.min(_notices.c.next_at)).where(_notices.c.state == QUEUED)
    reminder = select(func.min(_waits.c.remind_at)).where(_waits.c.state == _OPEN)
    times = [at for at in (c.scalar(queued), c.scalar(reminder)) if at is not None]
    return min(times, default=None)


def notices_of(c: Connection, wait: WaitId) -> list[NoticeRow]:
    query = select(_notices).where(_notices.c.wait == wait).order_by(_notices.c.id)
    return [_row(row) for row in c.execute(query)]


def drop_notice(c: Connection, notice: str) -> None:
    """It is not needed any more."""
    _change(c, notice, state=DROPPED, next_at=None)


def delivered(c: Connection, notice: NoticeRow, status: int, now: float) -> None:
    attempts = notice.attempts + 1
    _change(c, notice.id, state=DELIVERED, attempts=attempts, next_at=None, why=None)
    _log(c, notice, "webhook.sent", {"attempt": attempts, "status": status}, now)


def not_delivered(
    c: Connection, notice: NoticeRow, why: str, again_at: float | None, now: float
) -> None:
    """An attempt has failed; the next is `again_at`, or there is none."""
    attempts, state = notice.attempts + 1, FAILED if again_at is None else QUEUED
    _change(c, notice.id, state=state, attempts=attempts, next_at=again_at, why=why)
    details = {"attempt": attempts, "why": why, "again_at": again_at}
    _log(c, notice, "webhook.failed", details, now)


def _change(c: Connection, notice: str, **values: Any) -> None:
    c.execute(update(_notices).where(_notices.c.id == notice).values(**values))


def _log(c: Connection, notice: NoticeRow, kind: str, details: dict[str, Any], now: float) -> None:
    state = c.scalar(select(_runs.c.state).where(_runs.c.id == notice.run))
    if state not in {each.value for each in FINAL}:
        of = {"wait": notice.wait, "webhook": notice.webhook, "message": notice.id}
        append(c, notice.run, None, [NewEntry(kind, None, of | details)], now)


def _row(row: Any) -> NoticeRow:
    return NoticeRow(**row._mapping)
