"""Which worker carries a run, and until when it has it (schema 5)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_ID = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    op.add_column("runs", sa.Column("worker_id", _ID))
    op.add_column("runs", sa.Column("lease_until", sa.Double()))
