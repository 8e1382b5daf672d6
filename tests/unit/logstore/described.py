"""What a SQLite database consists of, whatever way it came to be."""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import Connection


def described(c: Connection) -> dict[str, Any]:
    """By kind and name. A column that was added later stands last: their order is left out."""

    def rows(sql: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in c.exec_driver_sql(sql)]

    def index(name: str) -> tuple[Any, ...]:
        (text,) = rows(f"SELECT sql FROM sqlite_master WHERE name = '{name}'") or [(None,)]
        where = re.search(r"\bWHERE\b(.*)", text[0] or "", re.DOTALL)
        keys = [row[2:] for row in rows(f"PRAGMA index_xinfo({name})") if row[-1]]
        return tuple(keys), where and " ".join(where[1].split())

    def table(name: str, without_rowid: int) -> dict[str, Any]:
        return {
            "without rowid": without_rowid,
            "columns": {row[1]: row[2:] for row in rows(f"PRAGMA table_xinfo({name})")},
            "foreign keys": {row[2:] for row in rows(f"PRAGMA foreign_key_list({name})")},
            "indexes": {
                row[1]: (row[2:], index(row[1])) for row in rows(f"PRAGMA index_list({name})")
            },
        }

    tables = {
        f"table {name}": table(name, without_rowid)
        for schema, name, kind, _, without_rowid, _ in rows("PRAGMA table_list")
        if schema == "main" and kind == "table" and not name.startswith(("sqlite_", "alembic_"))
    }
    others = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('view', 'trigger')"
    return tables | {f"{kind} {name}": " ".join(sql.split()) for kind, name, sql in rows(others)}
