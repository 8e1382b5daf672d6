"""For what a person's decision about a permission counts, and what has used it (schema 6)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_ID = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_OP = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "permissions",
        sa.Column("wait", _ID, sa.ForeignKey("waits.id"), primary_key=True),
        sa.Column("run", _ID, sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("op", _OP, nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("used_by", _OP),
        sa.UniqueConstraint("run", "op"),
    )
    op.create_index("permissions_by_scope", "permissions", ["scope", "run"])
