"""What the server remembers of its own, by name, in the table `meta`."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from torpor.contextlog import schema

_meta = schema.meta


def read(c: Connection, name: str) -> str | None:
    found: str | None = c.scalar(select(_meta.c.value).where(_meta.c.key == name))
    return found


def write(c: Connection, name: str, value: str) -> None:
    c.execute(delete(_meta).where(_meta.c.key == name))
    c.execute(insert(_meta), [{"key": name, "value": value}])
