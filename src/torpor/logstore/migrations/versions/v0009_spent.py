"""What went out, added up; the API key that started a run (schema 9)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_ID = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_KINDS = ("cost", "tokens", "requests", "bytes_out", "bytes_in")


def upgrade() -> None:
    op.add_column("runs", sa.Column("api_key", _ID))
    op.create_table(
        "spent",
        *(sa.Column(name, _ID, primary_key=True) for name in ("per", "whose", "day")),
        *(sa.Column(name, sa.Double(), nullable=False) for name in _KINDS),
        sqlite_with_rowid=False,
    )
