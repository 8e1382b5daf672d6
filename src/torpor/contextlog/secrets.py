"""Secrets of agents: sealed values and their terms (`torpor.core.secrets`), and who changed them.

No function here gives a value, and nothing in this database opens one. What was done to a secret
stays when it is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from torpor.contextlog import schema
from torpor.core.errors import Conflict, NotFound
from torpor.core.secrets import Author, Terms

SET, ROTATED, REMOVED = "set", "rotated", "removed"
# A use is noted once in so long, so that requests cost no more writes than they do anyway.
USE_S = 60.0

_secrets, _changes = schema.secrets, schema.secret_changes


@dataclass(frozen=True)
class SecretRow:
    name: str
    terms: Terms
    sealed: bytes
    used_at: float | None


@dataclass(frozen=True)
class Change:
    """`by`: who, as a grant says it. `detail`: from where, and of one that was set its terms."""

    id: str
    name: str
    what: str
    at: float
    by: str
    detail: dict[str, Any]


def put_secret(
    c: Connection, name: str, terms: Terms, sealed: bytes, author: Author, now: float
) -> None:
    """In place of the one that had the name."""
    c.execute(delete(_secrets).where(_secrets.c.name == name))
    row = {"name": name, "sealed": sealed, "used_at": None, **terms.to_json()}
    c.execute(insert(_secrets), [row])
    _note(c, name, SET, author, now, terms.to_json())


def rotate_secret(
    c: Connection, name: str, terms: Terms, sealed: bytes, author: Author, now: float
) -> None:
    """Another value on the same terms, to which it is sealed. Raises NotFound, Conflict (the terms
    are others by now)."""
    if get_secret(c, name).terms != terms:
        raise Conflict(f"secret {name} was just set anew", hint="Rotate it again.")
    c.execute(update(_secrets).where(_secrets.c.name == name).values(sealed=sealed))
    _note(c, name, ROTATED, author, now)


def remove_secret(c: Connection, name: str, author: Author, now: float) -> SecretRow:
    """Raises NotFound."""
    row = get_secret(c, name)
    c.execute(delete(_secrets).where(_secrets.c.name == name))
    _note(c, name, REMOVED, author, now)
    return row


def get_secret(c: Connection, name: str) -> SecretRow:
    """Raises NotFound."""
    row = c.execute(select(_secrets).where(_secrets.c.name == name)).first()
    if row is None:
        raise NotFound(f"there is no secret {name!r}", hint="torpor secrets list has their names.")
    return _row(row)


def list_secrets(c: Connection) -> list[SecretRow]:
    return [_row(row) for row in c.execute(select(_secrets).order_by(_secrets.c.name))]


def used_secret(kind: str, data: Mapping[str, Any]) -> str | None:
    """The secret that an entry says was sent (`torpor.contextlog.egress`)."""
    exchange = data if kind == "egress.request" else data.get("egress")
    name = exchange.get("secret") if isinstance(exchange, Mapping) else None
    return name if isinstance(name, str) else None


def note_use(c: Connection, name: str, now: float) -> None:
    """A request went out with the secret."""
    used = _secrets.c.used_at
    old = used.is_(None) | (used < now - USE_S)
    c.execute(update(_secrets).where(_secrets.c.name == name, old).values(used_at=now))


def list_changes(c: Connection, name: str | None = None) -> list[Change]:
    """Oldest first."""
    query = select(_changes).order_by(_changes.c.id)
    if name is not None:
        query = query.where(_changes.c.name == name)
    return [Change(**row._mapping) for row in c.execute(query)]


def last_changes(c: Connection) -> dict[str, dict[str, Change]]:
    """Of each secret there is, the last of each kind since it was set."""
    found: dict[str, dict[str, Change]] = {}
    for change in list_changes(c):
        kinds = found.setdefault(change.name, {})
        if change.what == SET:
            kinds.clear()
        kinds[change.what] = change
    return found


def _note(
    c: Connection, name: str, what: str, author: Author, now: float, terms: Any = None
) -> None:
    detail = {"whence": author.whence, **(terms or {})}
    newest = c.scalar(select(func.max(_changes.c.id)))
    id = f"{int(newest or 0) + 1:012}"  # they sort by age, also those of one moment
    change = Change(id, name, what, now, author.by, detail)
    c.execute(insert(_changes), [asdict(change)])


def _row(row: Any) -> SecretRow:
    agents: Sequence[str] | None = row.agents
    terms = Terms(tuple(row.hosts), row.placement, None if agents is None else tuple(agents))
    return SecretRow(row.name, terms, row.sealed, row.used_at)
