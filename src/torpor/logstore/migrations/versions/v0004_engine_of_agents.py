"""The engine of an agent's version, which was told by its image (schema 4)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("agents", sa.Column("engine", sa.String(), nullable=False, server_default=""))
    connection = op.get_bind()
    spec = sa.JSON().with_variant(sa.Text(), "sqlite")
    agents = sa.table("agents", sa.column("engine"), sa.column("spec", spec))
    connection.execute(sa.update(agents).values(engine="qemu"))
    # Agents of plain processes stood on an image of that name, which is none.
    image = (
        sa.func.json_extract(agents.c.spec, "$.image")
        if connection.dialect.name == "sqlite"
        else sa.type_coerce(agents.c.spec, sa.JSON())["image"].as_string()
    )
    connection.execute(sa.update(agents).where(image == "process").values(engine="process"))
