"""Statements of the hot path: written in SQLAlchemy like all others, compiled once a dialect, and
run on the driver's own cursor.

Running an expression through SQLAlchemy takes ten times what SQLite takes for it; an append runs
four. What is lost is the conversion of values: parameters and results are as the driver has them,
JSON is text; and lists as parameters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Executable
from sqlalchemy.exc import DBAPIError

Row = tuple[Any, ...]
Values = Mapping[str, Any]


class Prepared:
    def __init__(self, statement: Executable) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def rows(self, c: Connection, **values: Any) -> list[Row]:
        """What the statement returns with these parameters. Raises DBAPIError."""
        return self._execute(c, values, returns=True)

    def run(self, c: Connection, **values: Any) -> None:
        """Run a statement that returns nothing. Raises DBAPIError."""
        self._execute(c, values, returns=False)

    def run_many(self, c: Connection, several: Sequence[Values]) -> None:
        """Run it once with each of these parameters. Raises DBAPIError."""
        compiled = self._for(c)
        cursor = c.connection.cursor()
        try:
            cursor.executemany(compiled.sql, list(map(compiled.parameters, several)))
        except c.dialect.loaded_dbapi.Error as error:
            raise wrapped(c, compiled.sql, error) from error
        finally:
            cursor.close()

    def _execute(self, c: Connection, values: Values, *, returns: bool) -> list[Row]:
        compiled = self._for(c)
        cursor = c.connection.cursor()
        try:
            cursor.execute(compiled.sql, compiled.parameters(values))
            return list(cursor.fetchall()) if returns else []
        except c.dialect.loaded_dbapi.Error as error:
            raise wrapped(c, compiled.sql, error) from error
        finally:
            cursor.close()

    def _for(self, c: Connection) -> _Compiled:
        found = self._compiled.get(c.dialect.name)
        if found is None:
            compiled: Any = self._statement.compile(dialect=c.dialect)  # type: ignore[attr-defined]
            found = _Compiled(str(compiled), compiled.positiontup, dict(compiled.params))
            self._compiled[c.dialect.name] = found
        return found


@dataclass(frozen=True)
class _Compiled:
    sql: str
    names: list[str] | None  # in their places; None: the driver takes them by name
    constants: Values

    def parameters(self, values: Values) -> Any:
        every = {**self.constants, **values}
        return every if self.names is None else [every[name] for name in self.names]


def json_each(values: Sequence[Any]) -> list[Any]:
    """As `json_of` for each, at a tenth of the cost where they are text."""
    if all(isinstance(value, str) for value in values):
        found: list[Any] = json.loads(f"[{','.join(values)}]")
        return found
    return list(map(json_of, values))


def json_of(value: Any) -> Any:
    """A JSON column as its driver gives it."""
    return json.loads(value) if isinstance(value, str) else value


def wrapped(c: Connection, sql: str, error: Exception) -> BaseException:
    """A driver's error as SQLAlchemy would raise it."""
    return DBAPIError.instance(sql, None, error, c.dialect.loaded_dbapi.Error, dialect=c.dialect)
