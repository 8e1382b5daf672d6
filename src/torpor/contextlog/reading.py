"""Where somebody begins to read a run's log who does not want all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Select, select

from torpor.contextlog import schema
from torpor.core.ids import RunId

_log = schema.log


def begin(
    c: Connection,
    run: RunId,
    *,
    kinds: Sequence[str] | None = None,
    tail: int | None = None,
    since: float | None = None,
) -> int:
    """The entry after which there are only the last `tail` ones of these kinds, and only such as
    are not older than `since`. Looks from the log's end back, no further than there."""
    last: Select[Any] = select(_log.c.seq).where(_log.c.run == run)
    last = last.order_by(_log.c.part.desc(), _log.c.seq.desc()).limit(1)
    after = 0
    if tail is not None:
        wanted = last if kinds is None else last.where(_log.c.kind.in_(kinds))
        after = c.scalar(wanted.offset(tail)) or 0
    if since is not None:
        after = max(after, c.scalar(last.where(_log.c.at < since)) or 0)
    return after
