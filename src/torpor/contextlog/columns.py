"""Types of columns, for SQLite and PostgreSQL, and of which database all tables are
(`torpor.contextlog.schema`)."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, MetaData, String, Text
from sqlalchemy.dialects import sqlite
from sqlalchemy.ext.compiler import compiles

metadata = MetaData()

Id = String().with_variant(String(collation="C"), "postgresql")
Op = Text().with_variant(Text(collation="C"), "postgresql")


class _Text(sqlite.JSON):
    """JSON kept as text, as it was written. SQLAlchemy would declare the type JSON, which to SQLite
    is a number wherever it looks like one: 2**80 would come back as 1.2089258196146292e+24."""


@compiles(_Text, "sqlite")
def _declared(kind: _Text, compiler: Any, **more: Any) -> str:
    return "TEXT"


def _json(*, none_as_null: bool) -> JSON:
    kind = JSON(none_as_null=none_as_null)
    return kind.with_variant(_Text(none_as_null=none_as_null), "sqlite")


Json = _json(none_as_null=True)
# Where an agent's or a person's null is a value.
JsonOrNull = _json(none_as_null=False)
