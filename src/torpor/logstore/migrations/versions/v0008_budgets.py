"""An agent's budget beside its spec, and what went out found by an index (schema 8)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_JSON = sa.JSON().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.add_column("agents", sa.Column("budget", _JSON))
    kind = sa.column("kind", sa.String())
    only = sa.and_(kind >= sa.literal_column("'egress.'"), kind < sa.literal_column("'egress/'"))
    op.create_index(
        "entries_egress", "entries", ["run", "kind"], sqlite_where=only, postgresql_where=only
    )
