"""The first revision: the tables as they were before there were migrations (schema 3).

A database of that time is stamped with this revision, not made again (`torpor.logstore.migrate`).
What a revision says never changes, so nothing here is imported from torpor.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = None

_ID = sa.String().with_variant(sa.String(collation="C"), "postgresql")
_OP = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# JSON as text: SQLite would take a column declared JSON for one of numbers.
_JSON = sa.JSON().with_variant(sa.Text(), "sqlite")


def _only(condition: str, on_postgresql: str | None = None) -> dict[str, Any]:
    """Of a partial index: the rows that it has."""
    return {
        "sqlite_where": sa.text(condition),
        "postgresql_where": sa.text(on_postgresql or condition),
    }


def upgrade() -> None:
    op.create_table(
        "agents",
        sa.Column("version", _ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("entry", sa.String(), nullable=False),
        sa.Column("source", sa.LargeBinary(), nullable=False),
        sa.Column("spec", _JSON, nullable=False),
        sa.Column("template", _ID),
        sa.Column("agents", _JSON, nullable=False),
        sa.Column("boot_ms", sa.Double()),
        sa.Column("template_bytes", sa.BigInteger()),
        sa.Column("first_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.Column("deployed_at", sa.Double()),
        sa.PrimaryKeyConstraint("version"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("scopes", _JSON, nullable=False),
        sa.Column("agents", _JSON),
        sa.Column("run", _ID),
        sa.Column("wait", _ID),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "bases",
        sa.Column("key", _ID, nullable=False),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("link", _JSON, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "conversations",
        sa.Column("digest", _ID, nullable=False),
        sa.Column("previous", _ID, nullable=False),
        sa.Column("message", _ID, nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "deleting", sa.Column("run", _ID, nullable=False), sa.PrimaryKeyConstraint("run")
    )
    op.create_table(
        "files",
        sa.Column("digest", _ID, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("wrapped", sa.LargeBinary()),
        sa.Column("spared_until", sa.Double()),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "hooks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), server_default="", nullable=False),
        sa.Column("event", sa.String()),
        sa.Column("run_at", sa.String()),
        sa.Column("into", sa.String()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("revoked_at", sa.Double()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "messages",
        sa.Column("digest", _ID, nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("digest"),
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_table(
        "queues",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("concurrency", sa.Integer()),
        sa.Column("per_key", sa.Integer()),
        sa.Column("rate", sa.String()),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "said",
        sa.Column("run", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("node", _ID, nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", "n", "node"),
        sqlite_with_rowid=False,
    )
    op.create_index("said_by_node", "said", ["run", "node"])
    op.create_table(
        "saved_queries",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sql", sa.Text(), nullable=False),
        sa.Column("saved_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "schedules",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), server_default="", nullable=False),
        sa.Column("input", _JSON, nullable=False),
        sa.Column("cron", sa.String(), nullable=False),
        sa.Column("zone", sa.String(), nullable=False),
        sa.Column("jitter_s", sa.Double(), nullable=False),
        sa.Column("overlap", sa.String(), nullable=False),
        sa.Column("missed", sa.String(), nullable=False),
        sa.Column("queue", sa.String()),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("env", _JSON, nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("made_at", sa.Double(), nullable=False),
        sa.Column("next_time", sa.Double()),
        sa.Column("next_at", sa.Double()),
        sa.Column("last_time", sa.Double()),
        sa.Column("last_run", _ID),
        sa.Column("trouble", sa.Text()),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("schedules_due", "schedules", ["next_at"])
    op.create_table(
        "tool_uses",
        sa.Column("run", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("id", sa.String()),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run", "seq", "n"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "usage",
        sa.Column("run", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("op", _OP, nullable=False),
        sa.Column("model", sa.String()),
        sa.Column("status", sa.Integer()),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("finish", sa.String()),
        sa.PrimaryKeyConstraint("run", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "deployments",
        sa.Column("version", _ID, nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("deployed_at", sa.Double(), nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["version"],
            ["agents.version"],
        ),
        sa.PrimaryKeyConstraint("version", "origin", "name"),
    )
    op.create_index("deployments_by_origin", "deployments", ["origin", "name"])
    op.create_index(
        "deployments_current", "deployments", ["name"], **_only("current = 1", "current = true")
    )
    op.create_table(
        "runs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("version", _ID, nullable=False),
        sa.Column("agent", sa.String()),
        sa.Column("engine", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("input", _JSON, nullable=False),
        sa.Column("result", _JSON),
        sa.Column("error", _JSON),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), nullable=False),
        sa.Column("ready", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("ended_at", sa.Double()),
        sa.Column("ran_s", sa.Double(), nullable=False),
        sa.Column("slept_s", sa.Double(), nullable=False),
        sa.Column("waited_s", sa.Double(), server_default="0", nullable=False),
        sa.Column("state_since", sa.Double(), nullable=False),
        sa.Column("id_key", sa.String()),
        sa.Column("origin", _ID),
        sa.Column("origin_seq", sa.BigInteger()),
        sa.Column("base", _ID),
        sa.Column("parent", _ID),
        sa.Column("out_offset", sa.BigInteger(), nullable=False),
        sa.Column("err_offset", sa.BigInteger(), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("queue", sa.String(), nullable=False),
        sa.Column("queue_key", sa.String()),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("not_before", sa.Double()),
        sa.Column("expires_at", sa.Double()),
        sa.Column("due_at", sa.Double()),
        sa.Column("patient", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("wall_until", sa.Double()),
        sa.Column("wake_at", sa.Double()),
        sa.Column("after", _ID),
        sa.Column("successor", _ID),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("schedule", sa.String()),
        sa.Column("id_key_until", sa.Double()),
        sa.Column("env", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["version"],
            ["agents.version"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("id_key"),
    )
    op.create_index("runs_after", "runs", ["after"], **_only('"after" IS NOT NULL'))
    op.create_index("runs_by_origin", "runs", ["origin"])
    op.create_index("runs_by_parent", "runs", ["parent"])
    op.create_index("runs_by_queue", "runs", ["queue", "state"])
    op.create_index("runs_by_start", "runs", ["queue", "started_at"])
    op.create_index("runs_by_state", "runs", ["state", "id"])
    op.create_index("runs_due", "runs", ["due_at"], **_only("due_at IS NOT NULL"))
    op.create_index("runs_ended", "runs", ["ended_at"], **_only("ended_at IS NOT NULL"))
    op.create_index(
        "runs_ready",
        "runs",
        ["queue", sa.literal_column("priority DESC"), "id"],
        **_only("ready = 1", "ready = true"),
    )
    op.create_index(
        "runs_to_cancel",
        "runs",
        ["state"],
        **_only("cancel_requested = 1", "cancel_requested = true"),
    )
    op.create_table(
        "entries",
        sa.Column("run", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("epoch", sa.Integer()),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("op", _OP),
        sa.Column("data", _JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "seq"),
    )
    op.create_index("entries_again", "entries", ["run", "op"], **_only("kind = 'op.again'"))
    op.create_index(
        "entries_one_begin", "entries", ["run", "op"], unique=True, **_only("kind = 'op.begin'")
    )
    op.create_index(
        "entries_one_end", "entries", ["run", "op"], unique=True, **_only("kind = 'op.end'")
    )
    op.create_index("entries_superseded", "entries", ["run"], **_only("kind = 'log.superseded'"))
    op.create_table(
        "events",
        sa.Column("run", _ID, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("event", sa.String()),
        sa.Column("taken", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "seq"),
        sa.UniqueConstraint("run", "event"),
    )
    op.create_index("events_untaken", "events", ["run", "taken", "name", "seq"])
    op.create_table(
        "large_values",
        sa.Column("run", _ID, nullable=False),
        sa.Column("digest", _ID, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sealed", sa.Boolean(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "digest"),
    )
    op.create_table(
        "lineage",
        sa.Column("run", _ID, nullable=False),
        sa.Column("after_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("upto_seq", sa.BigInteger(), nullable=False),
        sa.Column("source", _ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.ForeignKeyConstraint(
            ["source"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "after_seq"),
    )
    op.create_index("lineage_by_source", "lineage", ["source"])
    op.create_table(
        "run_files",
        sa.Column("run", _ID, nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("digest", _ID, nullable=False),
        sa.ForeignKeyConstraint(
            ["digest"],
            ["files.digest"],
        ),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run", "path"),
    )
    op.create_index("run_files_by_digest", "run_files", ["digest"])
    op.create_table(
        "run_keys",
        sa.Column("run", _ID, nullable=False),
        sa.Column("wrapped", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("run"),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run", _ID),
        sa.Column("version", _ID, nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("heard_seq", sa.BigInteger(), nullable=False),
        sa.Column("parent", _ID),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("pause_ms", sa.Double(), nullable=False),
        sa.Column("freeze_ms", sa.Double(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("link", _JSON),
        sa.Column("detail", _JSON, nullable=False),
        sa.Column("pinned", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("reclaimed_at", sa.Double()),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("snapshots_by_run", "snapshots", ["run", "epoch", "seq"])
    op.create_table(
        "waits",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run", _ID, nullable=False),
        sa.Column("op", _OP, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("data", _JSON, nullable=False),
        sa.Column("schema", _JSON),
        sa.Column("approve", sa.Boolean(), nullable=False),
        sa.Column("tags", _JSON, nullable=False),
        sa.Column("id_key", sa.String()),
        sa.Column("webhooks", _JSON, nullable=False),
        sa.Column("remind_after", _JSON, nullable=False),
        sa.Column("reminded", sa.Integer(), nullable=False),
        sa.Column("remind_at", sa.Double()),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("value", _JSON),
        sa.Column("completed_at", sa.Double()),
        sa.Column("by", sa.String()),
        sa.Column("child", _ID),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("run", "op"),
    )
    op.create_index("waits_by_child", "waits", ["child", "state"])
    op.create_index("waits_by_id_key", "waits", ["id_key", "state"])
    op.create_index("waits_by_reminder", "waits", ["state", "remind_at"])
    op.create_index("waits_by_state", "waits", ["state", "due_at"])
    op.create_table(
        "notices",
        sa.Column("id", _ID, nullable=False),
        sa.Column("run", _ID, nullable=False),
        sa.Column("wait", _ID, nullable=False),
        sa.Column("webhook", sa.String(), nullable=False),
        sa.Column("reminder", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.Double()),
        sa.Column("why", sa.String()),
        sa.ForeignKeyConstraint(
            ["run"],
            ["runs.id"],
        ),
        sa.ForeignKeyConstraint(
            ["wait"],
            ["waits.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("notices_by_state", "notices", ["state", "next_at"])
    op.create_index("notices_by_wait", "notices", ["wait"])

    for name, within in (
        ("log", "+e.seq > l.after_seq AND e.seq <= l.upto_seq"),
        ("log_ops", "+e.seq > l.after_seq AND +e.seq <= l.upto_seq"),
    ):
        op.execute(
            f"CREATE VIEW {name} AS SELECT l.run, e.seq, e.at, e.epoch, e.kind, e.op, e.data, "
            f"l.after_seq AS part, l.source FROM lineage l JOIN entries e "
            f"ON e.run = l.source AND {within}"
        )
    if op.get_bind().dialect.name == "sqlite":
        for verb, unless in (
            ("UPDATE", ""),
            ("DELETE", "WHEN NOT EXISTS (SELECT 1 FROM deleting WHERE run = OLD.run) "),
        ):
            op.execute(
                f"CREATE TRIGGER entries_refuse_{verb.lower()} BEFORE {verb} ON entries {unless}"
                "BEGIN SELECT RAISE(ABORT, 'the context log is append-only'); END"
            )
