"""SQL over runs and logs, and queries that people saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from typing_extensions import TypedDict

from torpor.query.ask import Question
from torpor.service.shapes import closed


@closed
class Rows(TypedDict):
    """`more`: there are rows beyond `limit`, or beyond 8 MiB. Blobs are text, `0x…`."""

    columns: list[str]
    rows: list[list[Any]]
    more: bool
    ms: float


@closed
class SavedQuery(TypedDict):
    name: str
    sql: str
    saved_at: float


class Queries(Protocol):
    async def ask(self, question: Question) -> Rows:
        """Rows of the views of docs/sql.md. Raises Invalid, TookTooLong, Exhausted, HostError."""
        ...

    async def list(self) -> Sequence[SavedQuery]:
        """The saved ones, by name."""
        ...

    async def save(self, name: str, sql: str) -> SavedQuery:
        """In place of what had this name. Raises Invalid, Conflict."""
        ...

    async def delete(self, name: str) -> None:
        """Raises NotFound."""
        ...
