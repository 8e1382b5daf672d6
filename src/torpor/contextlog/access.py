"""API keys and public tokens, as they are kept: never themselves, only what proves them.

A public token is a key for one run or one wait that ends soon. Those whose time is long over are
removed when another is made; a key stays, to be seen as expired or revoked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from torpor.contextlog import schema
from torpor.core.access import Grant, Scope
from torpor.core.errors import NotFound

_GONE_S = 86400.0  # after its end, until a token is removed

_keys = schema.api_keys


@dataclass(frozen=True)
class KeyRow:
    id: str
    name: str
    digest: str
    scopes: list[str]
    agents: list[str] | None
    run: str | None
    wait: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "digest"}

    def why_not(self, now: float) -> str | None:
        """Why it is of no use any more."""
        if self.revoked_at is not None:
            return "was revoked"
        return "has expired" if self.expires_at is not None and self.expires_at <= now else None

    def grant(self) -> Grant:
        return Grant(
            who=f"key {self.id} ({self.name})",
            scopes=frozenset(map(Scope, self.scopes)),
            agents=None if self.agents is None else frozenset(self.agents),
            run=self.run,
            wait=self.wait,
            key=self.id,
        )


def put_key(c: Connection, row: KeyRow) -> KeyRow:
    over = (_keys.c.run.is_not(None) | _keys.c.wait.is_not(None)) & (
        _keys.c.expires_at < row.created_at - _GONE_S
    )
    c.execute(delete(_keys).where(over))
    c.execute(insert(_keys), [vars(row)])
    return row


def find_key(c: Connection, id: str) -> KeyRow | None:
    row = c.execute(select(_keys).where(_keys.c.id == id)).first()
    return None if row is None else KeyRow(**row._mapping)


def list_keys(c: Connection) -> list[KeyRow]:
    """Oldest first."""
    query = select(_keys).order_by(_keys.c.created_at, _keys.c.id)
    return [KeyRow(**row._mapping) for row in c.execute(query)]


def revoke_key(c: Connection, ref: str, now: float) -> KeyRow:
    """Revoke the key whose id is `ref`, or that alone is named so. Raises NotFound."""
    rows = [row for row in list_keys(c) if ref == row.id]
    rows = rows or [row for row in list_keys(c) if ref == row.name and row.revoked_at is None]
    if len(rows) != 1:
        which = "several keys are" if rows else "there is no key"
        raise NotFound(f"{which} {ref!r}", hint="torpor keys list has their ids.")
    unrevoked = (_keys.c.id == rows[0].id) & _keys.c.revoked_at.is_(None)
    c.execute(update(_keys).where(unrevoked).values(revoked_at=now))
    found = find_key(c, rows[0].id)
    assert found is not None
    return found
