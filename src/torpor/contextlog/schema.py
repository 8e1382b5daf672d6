"""The tables, for SQLite now and PostgreSQL too, as the newest version has them: how a database
of an older one is brought there is in `torpor.logstore.migrate`.

Only types and SQL that both have are used; what differs is bound to its dialect right here.
Times are unix seconds. Ids and operations are compared byte by byte (ids sort by age), as
SQLite does by default and PostgreSQL under collation "C".

`entries` is append-only, and the database itself says so (rule 1): triggers abort UPDATE and
DELETE, also for people who open the file with another tool. Only a whole run can go (`deleting`).

A fork shares the beginning of its origin's log, so a run's log is not the entries with its id: it
is what the view `log` gives, by way of `lineage` (`torpor.contextlog.lineage`). Readers use
`log`; only what appends names `entries`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    event,
    false,
    literal_column,
    true,
)

from torpor.contextlog.calltables import conversations as conversations
from torpor.contextlog.calltables import messages as messages
from torpor.contextlog.calltables import spent as spent
from torpor.contextlog.calltables import spoken as spoken
from torpor.contextlog.calltables import tool_uses as tool_uses
from torpor.contextlog.calltables import usage as usage
from torpor.contextlog.columns import Id as _Id
from torpor.contextlog.columns import Json as _Json
from torpor.contextlog.columns import JsonOrNull as _JsonOrNull
from torpor.contextlog.columns import Op as _Op
from torpor.contextlog.columns import metadata as metadata


def begins_with(column: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """Of a column of ids or operations. A range, which an index serves: LIKE is for text."""
    return and_(column >= prefix, column < prefix[:-1] + chr(ord(prefix[-1]) + 1))


meta = Table(
    "meta",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", String, nullable=False),
)

agents = Table(
    "agents",
    metadata,
    Column("version", _Id, primary_key=True),
    Column("name", String, nullable=False),
    Column("entry", String, nullable=False),
    Column("source", LargeBinary, nullable=False),
    Column("spec", _Json, nullable=False),
    Column("template", _Id),
    Column("agents", _Json, nullable=False),
    Column("boot_ms", Double),
    Column("template_bytes", BigInteger),
    Column("first_at", Double, nullable=False),
    # When it was last deployed, or a run of it made.
    Column("used_at", Double, nullable=False),
    # When it was last deployed; null: imported with a run.
    Column("deployed_at", Double),
    Column("engine", String, nullable=False, server_default=""),
    Column("budget", _Json),  # of each of its runs, as `spec` has it: for SQL
)

# From where a version was deployed, and as what (`contextlog.deployments`). Of each origin (of each
# name, where there is none) and engine one is current.
deployments = Table(
    "deployments",
    metadata,
    Column("version", _Id, ForeignKey("agents.version"), primary_key=True),
    Column("origin", String, primary_key=True),
    Column("name", String, primary_key=True),
    Column("engine", String, nullable=False),
    Column("deployed_at", Double, nullable=False),
    Column("current", Boolean, nullable=False),
    Index("deployments_by_origin", "origin", "name"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("version", _Id, ForeignKey("agents.version"), nullable=False),
    Column("agent", String),
    Column("engine", String, nullable=False),
    Column("state", String, nullable=False),
    Column("input", _Json, nullable=False),
    Column("result", _Json),
    Column("error", _Json),
    Column("epoch", Integer, nullable=False, default=0),
    Column("last_seq", BigInteger, nullable=False, default=0),
    Column("ready", Boolean, nullable=False, default=False, server_default=false()),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("ran_s", Double, nullable=False, default=0.0),
    Column("slept_s", Double, nullable=False, default=0.0),
    # Of `ran_s`, how long all of the agent waited though its machine was up.
    Column("waited_s", Double, nullable=False, default=0.0, server_default="0"),
    Column("state_since", Double, nullable=False),
    Column("id_key", String, unique=True),
    # Of a fork: which run it began as, how much of that one's log it shares, and the snapshot that
    # its first machine is restored from. No foreign keys: an imported fork's origin is elsewhere.
    Column("origin", _Id),
    Column("origin_seq", BigInteger),
    Column("base", _Id),
    # Of a child: the run that spawned it (`contextlog.children`). No foreign key, as above.
    Column("parent", _Id),
    Column("out_offset", BigInteger, nullable=False, default=0),
    Column("err_offset", BigInteger, nullable=False, default=0),
    Column("cancel_requested", Boolean, nullable=False, default=False, server_default=false()),
    # Where it waits for a machine (`contextlog.queues`), and until when it does.
    Column("queue", String, nullable=False),
    Column("queue_key", String),
    Column("priority", Integer, nullable=False, default=0),
    Column("not_before", Double),
    Column("expires_at", Double),
    # When something is next to be done about it by itself (`contextlog.deadlines`), and when it
    # has to have ended.
    Column("due_at", Double),
    # It sleeps until all that it waits for has ended.
    Column("patient", Boolean, nullable=False, default=False, server_default=false()),
    Column("wall_until", Double),
    # Of one that is suspended: something of its agent's own, such as a timeout, is due then.
    Column("wake_at", Double),
    # It starts when that one has ended.
    Column("after", _Id),
    # The run that took its place when it failed: a retry, or a fork; and which attempt it is.
    Column("successor", _Id),
    Column("attempt", Integer, nullable=False, default=1, server_default="1"),
    Column("schedule", String),  # that started it
    Column("id_key_until", Double),
    # The API key with which it, or what it comes from, was started: what its limits count under.
    Column("api_key", _Id),
    # Environment variables of its own. Not in its log: a person may have put a secret there.
    Column("env", _Json, nullable=False, default={}),
    # Of one that is running: who carries it, and until when (`torpor.worker.lease`).
    Column("worker_id", _Id),
    Column("lease_until", Double),
    Index("runs_by_state", "state", "id"),
    Index("runs_by_origin", "origin"),
    Index("runs_by_parent", "parent"),
    Index("runs_by_queue", "queue", "state"),
    Index("runs_by_start", "queue", "started_at"),
)


def _few(
    name: str, only: ColumnElement[bool], *columns: ColumnElement[Any], unique: bool = False
) -> None:
    """An index of those rows alone, of which there are few: most runs have ended, or sleep."""
    Index(name, *columns, unique=unique, sqlite_where=only, postgresql_where=only)


_few("deployments_current", deployments.c.current == true(), deployments.c.name)
_few("runs_ready", runs.c.ready == true(), runs.c.queue, runs.c.priority.desc(), runs.c.id)
_few("runs_due", runs.c.due_at.is_not(None), runs.c.due_at)
_few("runs_ended", runs.c.ended_at.is_not(None), runs.c.ended_at)
_few("runs_after", runs.c.after.is_not(None), runs.c.after)
_few("runs_to_cancel", runs.c.cancel_requested == true(), runs.c.state)

schedules = Table(
    "schedules",
    metadata,
    Column("name", String, primary_key=True),
    Column("agent", String, nullable=False),
    # Where the agent comes from: what else is called so does not take its place.
    Column("origin", String, nullable=False, default="", server_default=""),
    Column("input", _Json, nullable=False),
    Column("cron", String, nullable=False),
    Column("zone", String, nullable=False),
    Column("jitter_s", Double, nullable=False),
    Column("overlap", String, nullable=False),
    Column("missed", String, nullable=False),
    Column("queue", String),
    Column("priority", Integer, nullable=False),
    Column("env", _Json, nullable=False, default={}),
    Column("paused", Boolean, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("next_time", Double),
    Column("next_at", Double),
    Column("last_time", Double),
    Column("last_run", _Id),
    Column("trouble", Text),
    Index("schedules_due", "next_at"),
)

queues = Table(
    "queues",
    metadata,
    Column("name", String, primary_key=True),
    Column("concurrency", Integer),
    Column("per_key", Integer),
    Column("rate", String),
    Column("paused", Boolean, nullable=False),
    Column("made_at", Double, nullable=False),
)

# Run `run`'s log is, for each of these rows, the entries of `source` with
# after_seq < seq <= upto_seq.
lineage = Table(
    "lineage",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("after_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("upto_seq", BigInteger, nullable=False),
    Column("source", _Id, ForeignKey("runs.id"), nullable=False),
    Index("lineage_by_source", "source"),
)

entries = Table(
    "entries",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Double, nullable=False),
    # The machine that wrote it; null where the host did (an answer, a cancellation).
    Column("epoch", Integer),
    Column("kind", String, nullable=False),
    Column("op", _Op),
    Column("data", _Json, nullable=False),
)


def _once(kind: str, name: str) -> None:
    only = entries.c.kind == kind
    Index(name, entries.c.run, entries.c.op, unique=True, sqlite_where=only, postgresql_where=only)


# Rule 2: an operation begins once and ends once.
_once("op.begin", "entries_one_begin")
_once("op.end", "entries_one_end")

_few("entries_superseded", entries.c.kind == "log.superseded", entries.c.run)
_few("entries_again", entries.c.kind == "op.again", entries.c.run, entries.c.op)
# With literals: only so an index of some rows serves a query.
exchanges = and_(
    entries.c.kind >= literal_column("'egress.'"),
    entries.c.kind < literal_column("'egress/'"),
)
_few("entries_egress", exchanges, entries.c.run, entries.c.kind)

# Runs that are just being deleted whole, by `torpor.contextlog.deletion`: named here, and gone, in
# one transaction. The entries of no other can be.
deleting = Table("deleting", metadata, Column("run", _Id, primary_key=True))

for _verb, _unless in (
    ("UPDATE", ""),
    ("DELETE", "WHEN NOT EXISTS (SELECT 1 FROM deleting WHERE run = OLD.run) "),
):
    event.listen(
        metadata,
        "after_create",
        DDL(  # type: ignore[no-untyped-call]
            f"CREATE TRIGGER entries_refuse_{_verb.lower()} BEFORE {_verb} ON entries {_unless}"
            "BEGIN SELECT RAISE(ABORT, 'the context log is append-only'); END"
        ).execute_if(dialect="sqlite"),
    )


def _log_view(name: str, within: str) -> Table:
    event.listen(
        metadata,
        "after_create",
        DDL(  # type: ignore[no-untyped-call]
            f"CREATE VIEW {name} AS SELECT l.run, e.seq, e.at, e.epoch, e.kind, e.op, e.data, "
            f"l.after_seq AS part, l.source FROM lineage l JOIN entries e "
            f"ON e.run = l.source AND {within}"
        ),
    )
    return Table(
        name,
        MetaData(),
        *(Column(column.name, column.type) for column in entries.c),
        Column("part", BigInteger),
        Column("source", _Id),
    )


# Each run's log, whole: what it wrote and what it shares, which `source` wrote. Ordering by
# (part, seq), which is by seq, costs no sorting. Two views of the same: `log` to read in its order,
# `log_ops` to look an operation up. A plus keeps a condition from being what is looked up. So does
# an index find the reader's own lower bound, it serves only one; and the operation, not all
# entries of its run.
log = _log_view("log", "+e.seq > l.after_seq AND e.seq <= l.upto_seq")
log_ops = _log_view("log_ops", "+e.seq > l.after_seq AND +e.seq <= l.upto_seq")

waits = Table(
    "waits",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run", _Id, ForeignKey("runs.id"), nullable=False),
    Column("op", _Op, nullable=False),
    Column("kind", String, nullable=False),
    Column("prompt", Text, nullable=False),
    # What the agent shows and asks for may be JSON null, so null is kept as JSON here.
    Column("data", _JsonOrNull, nullable=False),
    Column("schema", _Json),
    Column("approve", Boolean, nullable=False),
    Column("tags", _JsonOrNull, nullable=False),
    Column("id_key", String),
    # Whom to tell of it, by the names in the agent's file, and when to remind them.
    Column("webhooks", _JsonOrNull, nullable=False),
    Column("remind_after", _JsonOrNull, nullable=False),  # seconds from its creation, ascending
    Column("reminded", Integer, nullable=False, default=0),
    Column("remind_at", Double),
    Column("created_at", Double, nullable=False),
    Column("due_at", Double),
    Column("state", String, nullable=False),
    Column("value", _Json),
    Column("completed_at", Double),
    Column("by", String),
    # Of a wait for a child run: which. A fork of the one that spawned it waits for the same.
    Column("child", _Id),
    UniqueConstraint("run", "op"),
    Index("waits_by_state", "state", "due_at"),
    Index("waits_by_child", "child", "state"),
    Index("waits_by_id_key", "id_key", "state"),
    Index("waits_by_reminder", "state", "remind_at"),
)

# Of waits for permission: for what a decision counts, and what has used it
# (`torpor.contextlog.permissions`).
permissions = Table(
    "permissions",
    metadata,
    Column("wait", _Id, ForeignKey("waits.id"), primary_key=True),
    Column("run", _Id, ForeignKey("runs.id"), nullable=False),
    Column("op", _Op, nullable=False),
    Column("digest", String, nullable=False),
    Column("scope", String, nullable=False),
    Column("used_by", _Op),
    UniqueConstraint("run", "op"),
    Index("permissions_by_scope", "scope", "run"),
)

# Messages that tell of waits (`torpor.contextlog.notices`).
notices = Table(
    "notices",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run", _Id, ForeignKey("runs.id"), nullable=False),
    Column("wait", _Id, ForeignKey("waits.id"), nullable=False),
    Column("webhook", String, nullable=False),  # its name in the agent's file
    Column("reminder", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", Double),
    Column("why", String),  # the last attempt failed
    Index("notices_by_state", "state", "next_at"),
    Index("notices_by_wait", "wait"),
)

# What others may send in by webhook (`torpor.contextlog.hooks`).
hooks = Table(
    "hooks",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("agent", String, nullable=False),
    Column("origin", String, nullable=False, default="", server_default=""),
    Column("event", String),
    Column("run_at", String),
    Column("into", String),
    Column("created_at", Double, nullable=False),
    Column("revoked_at", Double),
)

# The events that were sent to a run, by their places in its log (`torpor.contextlog.events`).
events = Table(
    "events",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String, nullable=False),
    Column("event", String),  # its sender's id of it
    Column("taken", Boolean, nullable=False),
    UniqueConstraint("run", "event"),
    Index("events_untaken", "run", "taken", "name", "seq"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("run", _Id, ForeignKey("runs.id")),  # null: a template
    Column("version", _Id, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("seq", BigInteger, nullable=False),
    # How long the log was when it was taken: what the machine in it did is all before that.
    Column("heard_seq", BigInteger, nullable=False),
    Column("parent", _Id),
    Column("manifest", String, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("pause_ms", Double, nullable=False),
    Column("freeze_ms", Double, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("link", _Json),
    Column("detail", _Json, nullable=False),
    Column("pinned", Boolean, nullable=False, default=False, server_default=false()),
    # From then on its layers and manifest may be gone; the row stays, as its log entry does.
    Column("reclaimed_at", Double),
    Index("snapshots_by_run", "run", "epoch", "seq"),
)

# What templates are made upon; see `contextlog.bases`.
bases = Table(
    "bases",
    metadata,
    Column("key", _Id, primary_key=True),
    Column("manifest", String, nullable=False),
    Column("link", _Json, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("made_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
)

# Questions that people ask again; see `contextlog.saved`.
saved_queries = Table(
    "saved_queries",
    metadata,
    Column("name", String, primary_key=True),
    Column("sql", Text, nullable=False),
    Column("saved_at", Double, nullable=False),
)

# Values that entries name by their digests; see `contextlog.values`.
large_values = Table(
    "large_values",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("digest", _Id, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("sealed", Boolean, nullable=False),
    Column("name", String, nullable=False),  # of its file
)

# Contents of runs' files, each once, and which run has which where; see `contextlog.files`.
files = Table(
    "files",
    metadata,
    Column("digest", _Id, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("name", String, nullable=False),  # of its file
    Column("wrapped", LargeBinary),  # its key; null: it is in the clear
    Column("spared_until", Double),  # though no run has it; null: one has had it
)

run_files = Table(
    "run_files",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("path", String, primary_key=True),
    Column("digest", _Id, ForeignKey("files.digest"), nullable=False),
    Index("run_files_by_digest", "digest"),
)

# See `torpor.contextlog.access`: digests of secrets, never these.
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("scopes", _Json, nullable=False),
    Column("agents", _Json),
    Column("run", _Id),
    Column("wait", _Id),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)

run_keys = Table(
    "run_keys",
    metadata,
    Column("run", _Id, ForeignKey("runs.id"), primary_key=True),
    Column("wrapped", LargeBinary, nullable=False),
)

# Certificate authorities that machines trust: see `torpor.contextlog.authorities`.
authorities = Table(
    "authorities",
    metadata,
    Column("fingerprint", _Id, primary_key=True),
    Column("certificate", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),  # its key, under the host's
    Column("own", Boolean, nullable=False),
    Column("made_at", Double, nullable=False),
)
_few("authorities_one_own", authorities.c.own == true(), authorities.c.own, unique=True)

# What may be sent for agents, never to be read again but by the broker: see
# `torpor.contextlog.secrets`.
secrets = Table(
    "secrets",
    metadata,
    Column("name", _Id, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),  # under the host's key
    Column("hosts", _Json, nullable=False),
    Column("placement", _Json, nullable=False),
    Column("agents", _Json),  # null: all
    Column("used_at", Double),
)

# Who did what to secrets, and when; it stays when they are removed.
secret_changes = Table(
    "secret_changes",
    metadata,
    Column("id", _Id, primary_key=True),
    Column("name", _Id, nullable=False),
    Column("what", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("by", String, nullable=False),
    Column("detail", _Json, nullable=False),
    Index("secret_changes_by_name", "name", "id"),
)
