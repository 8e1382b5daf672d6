"""Finding a row by its id or by a beginning of it that no other has, as people type them."""

from __future__ import annotations

import difflib
from typing import Any

from sqlalchemy import Column, Connection, select

from torpor.contextlog.schema import begins_with
from torpor.core.errors import NotFound

SHOWN_MAX = 5
_NEAR_AMONG = 500  # the newest ids that a mistyped one is compared with


def resolve(c: Connection, column: Column[Any], ref: str, *, what: str, prefix: str = "") -> str:
    """The id in `column` that is `ref` or alone begins with it; `prefix` may be left out.

    Raises NotFound, whose hint lists the ids it might be.
    """
    full = ref if ref.startswith(prefix) else prefix + ref
    if len(full) > len(prefix):
        found = c.scalars(
            select(column).where(begins_with(column, full)).limit(SHOWN_MAX + 1)
        ).all()
        if full in found or len(found) == 1:
            return str(full if full in found else found[0])
        if found:
            more = " and more" if len(found) > SHOWN_MAX else ""
            raise NotFound(
                f"more than one {what} begins with {ref!r}",
                hint=f"One of: {', '.join(found[:SHOWN_MAX])}{more}.",
            )
    newest = c.scalars(select(column).order_by(column.desc()).limit(_NEAR_AMONG)).all()
    near = difflib.get_close_matches(full, newest, n=SHOWN_MAX, cutoff=0.75)
    raise NotFound(
        f"there is no {what} {ref!r}", hint=f"Did you mean {', '.join(near)}?" if near else ""
    )
