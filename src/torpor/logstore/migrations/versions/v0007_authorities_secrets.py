"""Certificate authorities, and secrets of agents (schema 7)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_ID = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_JSON = sa.JSON().with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "authorities",
        sa.Column("fingerprint", _ID, primary_key=True),
        sa.Column("certificate", sa.Text(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("own", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
    )
    own = sa.column("own") == sa.true()
    op.create_index(
        "authorities_one_own",
        "authorities",
        ["own"],
        unique=True,
        sqlite_where=own,
        postgresql_where=own,
    )
    op.create_table(
        "secrets",
        sa.Column("name", _ID, primary_key=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("hosts", _JSON, nullable=False),
        sa.Column("placement", _JSON, nullable=False),
        sa.Column("agents", _JSON),
        sa.Column("used_at", sa.Double()),
    )
    op.create_table(
        "secret_changes",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("name", _ID, nullable=False),
        sa.Column("what", sa.String(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("detail", _JSON, nullable=False),
    )
    op.create_index("secret_changes_by_name", "secret_changes", ["name", "id"])
