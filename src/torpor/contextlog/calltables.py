"""The tables of model calls, and of what went out (`torpor.contextlog.schema`)."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, Integer, String, Table, Text

from torpor.contextlog.columns import Id as _Id
from torpor.contextlog.columns import Op as _Op
from torpor.contextlog.columns import metadata

# What is sent to models: see `torpor.contextlog.messages`.
messages = Table(
    "messages",
    metadata,
    Column("digest", _Id, primary_key=True),
    Column("text", Text, nullable=False),
)

conversations = Table(
    "conversations",
    metadata,
    Column("digest", _Id, primary_key=True),
    Column("previous", _Id, nullable=False),  # empty: it is the first
    # No foreign key: for each message that is deleted SQLite would look through all of these.
    Column("message", _Id, nullable=False),  # of `messages`
)

# Of model calls, what questions are often about: see `torpor.contextlog.calls`. `said`, `usage` and
# `tool_uses` belong to the entry at (run, seq).
spoken = Table(
    "said",
    metadata,
    Column("run", _Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("n", Integer, primary_key=True, autoincrement=False),  # its place in the conversation
    Column("node", _Id, primary_key=True),  # of `conversations`: what ends with it
    Index("said_by_node", "run", "node"),
    sqlite_with_rowid=False,
)

usage = Table(
    "usage",
    metadata,
    Column("run", _Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("op", _Op, nullable=False),
    Column("model", String),
    Column("status", Integer),
    Column("input_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("finish", String),
    sqlite_with_rowid=False,
)

# What went out, added up with the entries that say so: see `torpor.contextlog.spent`.
spent = Table(
    "spent",
    metadata,
    Column("per", _Id, primary_key=True),
    Column("whose", _Id, primary_key=True),
    Column("day", _Id, primary_key=True),
    Column("cost", Double, nullable=False),
    Column("tokens", Double, nullable=False),
    Column("requests", Double, nullable=False),
    Column("bytes_out", Double, nullable=False),
    Column("bytes_in", Double, nullable=False),
    sqlite_with_rowid=False,
)

tool_uses = Table(
    "tool_uses",
    metadata,
    Column("run", _Id, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("id", String),
    Column("name", String, nullable=False),
    sqlite_with_rowid=False,
)
