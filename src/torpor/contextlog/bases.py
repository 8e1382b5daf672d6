"""Records of bases: frozen machines that templates are made upon (`torpor.worker.bases`).

A base is nobody's: what it is good for is all in its key. Its template needs it no more once it is
made, since a manifest names all of its layers itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from torpor.contextlog import schema

_bases = schema.bases


@dataclass(frozen=True)
class BaseRow:
    key: str
    manifest: str
    link: dict[str, Any]
    bytes: int
    made_at: float
    used_at: float


def put_base(
    c: Connection, key: str, *, manifest: str, link: Mapping[str, Any], bytes: int, now: float
) -> BaseRow:
    """Record a base that is durable (rule 5), in place of the one that had its key."""
    forget_bases(c, [key])
    row = BaseRow(key, manifest, dict(link), bytes, now, now)
    c.execute(insert(_bases), [vars(row)])
    return row


def use_base(c: Connection, key: str, now: float) -> BaseRow | None:
    """The base of this key, if there is one, which is used now."""
    c.execute(update(_bases).where(_bases.c.key == key).values(used_at=now))
    row = c.execute(select(_bases).filter_by(key=key)).first()
    return None if row is None else BaseRow(**row._mapping)


def list_bases(c: Connection) -> list[BaseRow]:
    """The one used last first."""
    query = select(_bases).order_by(_bases.c.used_at.desc(), _bases.c.key)
    return [BaseRow(**row._mapping) for row in c.execute(query)]


def forget_bases(c: Connection, keys: Collection[str]) -> None:
    c.execute(delete(_bases).where(_bases.c.key.in_(keys)))
