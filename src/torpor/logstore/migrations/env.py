"""Alembic's environment: runs the revisions on the connection that `torpor.logstore.migrate` gives,
in the transaction that it has begun."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
