"""Certificate authorities: what machines of this data directory trust, and what machines trust that
came from elsewhere with an import.

One is this data directory's own, made once; the agents that are loaded from then on trust it. All
are kept for as long as the data directory: any snapshot may trust any of them. Their keys are
sealed under the host's.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, true

from torpor.contextlog import schema

_authorities = schema.authorities


@dataclass(frozen=True)
class AuthorityRow:
    fingerprint: str
    certificate: str  # PEM
    sealed: bytes
    own: bool
    made_at: float


def put_own(c: Connection, row: AuthorityRow) -> AuthorityRow:
    """This data directory's own, which is `row` if there was none."""
    found = find_own(c)
    if found is None:
        c.execute(insert(_authorities), [vars(row)])
    return found or row


def put_foreign(c: Connection, row: AuthorityRow) -> None:
    """Nothing happens if it is here."""
    if find_authority(c, row.fingerprint) is None:
        c.execute(insert(_authorities), [vars(row)])


def find_own(c: Connection) -> AuthorityRow | None:
    row = c.execute(select(_authorities).where(_authorities.c.own == true())).first()
    return None if row is None else AuthorityRow(**row._mapping)


def find_authority(c: Connection, fingerprint: str) -> AuthorityRow | None:
    row = c.execute(select(_authorities).filter_by(fingerprint=fingerprint)).first()
    return None if row is None else AuthorityRow(**row._mapping)


def list_authorities(c: Connection) -> list[AuthorityRow]:
    """Oldest first."""
    query = select(_authorities).order_by(_authorities.c.made_at, _authorities.c.fingerprint)
    return [AuthorityRow(**row._mapping) for row in c.execute(query)]


def any_authority(c: Connection) -> AuthorityRow | None:
    """One of them, to try the host's key on."""
    row = c.execute(select(_authorities).limit(1)).first()
    return None if row is None else AuthorityRow(**row._mapping)
