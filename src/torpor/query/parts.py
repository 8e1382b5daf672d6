"""What views are made of: their columns, entries of logs, operations from beginning to end.

Speed is in the form of these statements, measured on a million entries. Operations are found by
their beginnings; the result is in the same part of the log almost always, and is looked up there
first, by an index. What a run's log is says `lineage` (see `torpor.contextlog.lineage`). `cross
join` tells SQLite to keep the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torpor.core.limits import SQL_INT_MAX

OPEN_END = SQL_INT_MAX  # as torpor.contextlog.lineage has it


@dataclass(frozen=True)
class Column:
    name: str
    about: str
    sql: str


@dataclass(frozen=True)
class View:
    name: str
    about: str
    columns: tuple[Column, ...]
    source: str  # FROM …
    more: tuple[tuple[tuple[str, ...], str], ...] = ()  # UNION ALL: expressions, FROM …

    @property
    def sql(self) -> str:
        named = ", ".join(f"{column.sql} AS {column.name}" for column in self.columns)
        arms = [f"SELECT {named} {self.source}"]
        arms += [f"SELECT {', '.join(columns)} {source}" for columns, source in self.more]
        return " UNION ALL ".join(arms)


def columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name, about, sql) for name, sql, about in rows)


def of_log(table: str, alias: str) -> str:
    """Rows that belong to entries, of every run's log."""
    return (
        f"FROM lineage l CROSS JOIN {table} {alias} ON {alias}.run = l.source "
        f"AND {alias}.seq > l.after_seq AND {alias}.seq <= l.upto_seq"
    )


def operations(kind: str) -> str:
    """Operations of a kind: l is whose log, b the beginning, e or f the result if there is one."""
    elsewhere = (
        "SELECT x.rowid FROM lineage m CROSS JOIN entries x ON x.run = m.source AND x.op = b.op "
        "AND x.kind = 'op.end' AND +x.seq > m.after_seq AND +x.seq <= m.upto_seq "
        "WHERE m.run = l.run"
    )
    return (
        "FROM lineage l CROSS JOIN entries b ON b.run = l.source AND b.kind = 'op.begin' "
        f"AND b.op >= '{kind}:' AND b.op < '{kind};' "
        "AND +b.seq > l.after_seq AND +b.seq <= l.upto_seq "
        "LEFT JOIN entries e ON e.run = l.source AND e.op = b.op AND e.kind = 'op.end' "
        "AND +e.seq <= l.upto_seq "
        f"LEFT JOIN entries f ON f.rowid = CASE WHEN e.rowid IS NULL AND l.upto_seq < {OPEN_END} "
        f"THEN ({elsewhere}) END"
    )


ENDED = "coalesce(e.at, f.at)"
RESULT = "coalesce(e.data, f.data)"
IN_OP = ("run", "l.run", "the run"), ("op", "b.op", "the operation, `kind:name#n`")


def name_in(op: str, kind: str) -> str:
    """The name in an operation's id, `kind:name#n`; most are used less than ten times."""
    bare, before = f"rtrim({op}, '0123456789')", len(kind) + 1
    return (
        f"CASE WHEN substr({op}, -2, 1) = '#' "
        f"THEN substr({op}, {before + 1}, length({op}) - {before + 2}) "
        f"ELSE substr({bare}, {before + 1}, length({bare}) - {before + 1}) END"
    )


TIMES = (
    ("began_at", "b.at", "when it began"),
    ("ended_at", ENDED, "when it ended; null if it has not"),
    ("duration_s", f"{ENDED} - b.at", "between the two"),
)


# Joined to model calls: what their answers say.
USED = " LEFT JOIN usage u ON u.run = coalesce(e.run, f.run) AND u.seq = coalesce(e.seq, f.seq)"
