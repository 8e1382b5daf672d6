"""Questions in SQL that people have given a name, to be asked again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from torpor.contextlog import schema
from torpor.core.errors import Conflict, Invalid, NotFound
from torpor.core.limits import KEPT_SQL_CHARS_MAX

NAME_CHARS_MAX = 100
SAVED_MAX = 200

_saved = schema.saved_queries


@dataclass(frozen=True)
class SavedQuery:
    name: str
    sql: str
    saved_at: float

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


def saved_queries(c: Connection) -> list[SavedQuery]:
    """By name."""
    return [SavedQuery(*row) for row in c.execute(select(_saved).order_by(_saved.c.name))]


def save_query(c: Connection, name: str, sql: str, now: float) -> SavedQuery:
    """Give `sql` this name, which may have been another's. Raises Invalid, Conflict."""
    name = " ".join(name.split())
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise Invalid(f"a saved query's name must have 1 to {NAME_CHARS_MAX} characters")
    if not sql.strip() or len(sql) > KEPT_SQL_CHARS_MAX:
        raise Invalid(f"a saved query must have 1 to {KEPT_SQL_CHARS_MAX:,} characters")
    values = {"sql": sql, "saved_at": now}
    if c.execute(update(_saved).where(_saved.c.name == name).values(**values)).rowcount == 0:
        if (c.scalar(select(func.count()).select_from(_saved)) or 0) >= SAVED_MAX:
            raise Conflict(f"{SAVED_MAX} queries are saved already", hint="Delete some first.")
        c.execute(insert(_saved), [{"name": name, **values}])
    return SavedQuery(name, sql, now)


def delete_query(c: Connection, name: str) -> None:
    """Raises NotFound."""
    if c.execute(delete(_saved).where(_saved.c.name == name)).rowcount == 0:
        raise NotFound(f"there is no saved query {name!r}")
