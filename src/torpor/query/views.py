"""What may be asked about: each view, its columns with what they mean, and its SQL.

This is a public surface: docs/sql.md is checked against it. Times are unix seconds. Columns of
JSON are text, for `->`, `->>` and json_each. Functions named `torpor_…` are Python's
(`torpor.query.worker`); they are called for the rows and columns that are asked for only.

Speed is in the form of these statements, measured on a million entries. Operations are found by
their beginnings; the result is in the same part of the log almost always, and is looked up there
first, by an index. What a run's log is says `lineage` (see `torpor.contextlog.lineage`). `cross
join` tells SQLite to keep the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from torpor.core.egress import MODEL_HOST
from torpor.core.limits import SQL_INT_MAX
from torpor.engine.registry import NAMES

_OPEN_END = SQL_INT_MAX  # as torpor.contextlog.lineage has it


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


def _columns(*rows: tuple[str, str, str]) -> tuple[Column, ...]:
    return tuple(Column(name, about, sql) for name, sql, about in rows)


def _of_log(table: str, alias: str) -> str:
    """Rows that belong to entries, of every run's log."""
    return (
        f"FROM lineage l CROSS JOIN {table} {alias} ON {alias}.run = l.source "
        f"AND {alias}.seq > l.after_seq AND {alias}.seq <= l.upto_seq"
    )


def _operations(kind: str) -> str:
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
        f"LEFT JOIN entries f ON f.rowid = CASE WHEN e.rowid IS NULL AND l.upto_seq < {_OPEN_END} "
        f"THEN ({elsewhere}) END"
    )


_ENDED = "coalesce(e.at, f.at)"
_RESULT = "coalesce(e.data, f.data)"
_IN_OP = ("run", "l.run", "the run"), ("op", "b.op", "the operation, `kind:name#n`")


def _name_in(op: str, kind: str) -> str:
    """The name in an operation's id, `kind:name#n`; most are used less than ten times."""
    bare, before = f"rtrim({op}, '0123456789')", len(kind) + 1
    return (
        f"CASE WHEN substr({op}, -2, 1) = '#' "
        f"THEN substr({op}, {before + 1}, length({op}) - {before + 2}) "
        f"ELSE substr({bare}, {before + 1}, length({bare}) - {before + 1}) END"
    )


_TIMES = (
    ("began_at", "b.at", "when it began"),
    ("ended_at", _ENDED, "when it ended; null if it has not"),
    ("duration_s", f"{_ENDED} - b.at", "between the two"),
)


def _so_far(state: str, column: str) -> str:
    """The seconds of a column, with those since the run came into this state."""
    since = "max(0.0, (julianday('now') - 2440587.5) * 86400.0 - r.state_since)"
    return f"r.{column} + CASE r.state WHEN '{state}' THEN {since} ELSE 0.0 END"


runs = View(
    "runs",
    "Every run.",
    _columns(
        ("id", "r.id", "the run"),
        ("agent", "r.agent", "the agent's name"),
        ("version", "r.version", "digest of the agent's source, dependencies and sizes"),
        ("engine", "r.engine", " or ".join(f"`{name}`" for name in NAMES)),
        (
            "state",
            "r.state",
            "`queued`, `running`, `suspended`, `completed`, `failed`, `cancelled`",
        ),
        ("input", "r.input", "JSON"),
        ("result", "r.result", "JSON; null unless completed"),
        ("error_type", "r.error ->> '$.type'", "if it failed"),
        ("error", "r.error ->> '$.message'", "if it failed"),
        ("created_at", "r.created_at", "when it was created"),
        ("started_at", "r.started_at", "when its first machine was claimed"),
        ("ended_at", "r.ended_at", "null if unfinished"),
        ("state_since", "r.state_since", "when it entered this state"),
        ("ran_s", _so_far("running", "ran_s"), "seconds with a machine, up to now"),
        ("slept_s", _so_far("suspended", "slept_s"), "seconds asleep, up to now"),
        ("epoch", "r.epoch", "how many machines it has had"),
        ("entries", "r.last_seq", "how many entries its log has"),
        ("origin", "r.origin", "for a fork: the run that it was forked from"),
        ("origin_seq", "r.origin_seq", "for a fork: the last entry that it shares with its origin"),
    ),
    "FROM main.runs r",
)

log = View(
    "log",
    "Every entry of every run's context log. A fork's log includes what it shares with its origin.",
    _columns(
        ("run", "l.run", "the run"),
        ("seq", "e.seq", "its position in the run's log: 1, 2, …"),
        ("at", "e.at", "when it was written"),
        ("epoch", "e.epoch", "the machine that wrote it; null if the host did"),
        ("kind", "e.kind", "`run.…`, `op.begin`, `op.end`, `wait.…`, `output`, `note.…`, …"),
        ("op", "e.op", "the operation that it belongs to"),
        ("data", "e.data", "JSON; messages to models are in `messages`"),
    ),
    _of_log("entries", "e"),
)

_ITEM = "ltrim(x.text, ', ' || char(9, 10, 13))"
_CONTENT = (
    "CASE json_type(item, '$.content') WHEN 'text' THEN item ->> '$.content' "
    "WHEN 'null' THEN NULL ELSE coalesce(item -> '$.content', item ->> '$.output') END"
)
_SENT = (
    "FROM (SELECT l.run, s.seq, s.n, "
    f"CASE WHEN json_valid({_ITEM}) THEN {_ITEM} END AS item "
    f"{_of_log('said', 's')} CROSS JOIN conversations v ON v.digest = s.node "
    "CROSS JOIN main.messages x ON x.digest = v.message) i"
)

messages = View(
    "messages",
    "Messages to and from models. A message that is sent again with each call of a growing "
    "conversation is here once; a reply that the agent later sends back is here as received and as "
    "sent.",
    _columns(
        ("run", "i.run", "the run"),
        ("seq", "i.seq", "the entry: of the first call that sent it, or of the reply"),
        ("n", "i.n", "for a sent message: its place in the conversation, from 1"),
        ("direction", "'sent'", "`sent`, `received`, or `context` (by `torpor.context`)"),
        ("role", "coalesce(item ->> '$.role', item ->> '$.type')", "`system`, `user`, `tool`, …"),
        ("content", _CONTENT, "text; JSON if it has parts"),
        (
            "tool_call_id",
            "coalesce(item ->> '$.tool_call_id', item ->> '$.call_id')",
            "for a tool's result",
        ),
        ("message", "item", "for a sent message: the whole message, as JSON"),
    ),
    _SENT,
    (
        (
            (
                "l.run, u.seq, NULL, 'received', 'assistant'",
                "(SELECT torpor_text(e.data) FROM entries e WHERE e.run = u.run AND e.seq = u.seq)",
                "NULL, NULL",
            ),
            _of_log("usage", "u"),
        ),
        (
            (
                "l.run, e.seq, NULL, 'context', e.data ->> '$.data.message.role'",
                "CASE json_type(e.data, '$.data.message.content') "
                "WHEN 'text' THEN e.data ->> '$.data.message.content' "
                "ELSE e.data -> '$.data.message.content' END",
                "e.data ->> '$.data.message.tool_call_id', e.data -> '$.data.message'",
            ),
            _of_log("entries", "e")
            + " AND e.kind = 'op.begin' AND e.op >= 'context:append#' AND e.op < 'context:append$'",
        ),
    ),
)

_REPEATS = (
    "repeats",
    "(SELECT count(*) FROM lineage m CROSS JOIN entries a ON a.run = m.source "
    "AND a.op = b.op AND a.kind = 'op.again' AND +a.seq > m.after_seq "
    "AND +a.seq <= m.upto_seq WHERE m.run = l.run)",
    "how often it was in doubt and repeated",
)

_USED = " LEFT JOIN usage u ON u.run = coalesce(e.run, f.run) AND u.seq = coalesce(e.seq, f.seq)"

model_calls = View(
    "model_calls",
    "Every model call.",
    _columns(
        *_IN_OP,
        ("seq", "b.seq", "the entry where it began"),
        (
            "model",
            "coalesce(u.model, torpor_model(b.data))",
            "the model that replied, or else the one requested",
        ),
        *_TIMES,
        ("status", "u.status", "HTTP status of the reply"),
        (
            "input_tokens",
            "u.input_tokens",
            "as the reply says, cached ones included; null if it does not say (mostly streams)",
        ),
        ("cached_tokens", "u.cached_tokens", "those of the input that were read from a cache"),
        ("output_tokens", "u.output_tokens", "as the reply says"),
        ("finish", "u.finish", "why the reply ended: `stop`, `length`, `tool_calls`, …"),
        (
            "cost_usd",
            "torpor_cost(u.model, u.input_tokens, u.cached_tokens, u.output_tokens)",
            "by the table of prices; null if it has no price for the model, or the reply no tokens",
        ),
        _REPEATS,
    ),
    _operations("model") + _USED,
)

tool_calls = View(
    "tool_calls",
    "Every tool call in a model's reply.",
    _columns(
        ("run", "l.run", "the run"),
        ("seq", "t.seq", "the entry with the reply"),
        ("n", "t.n", "its place in the reply, from 1"),
        ("id", "t.id", "the tool call's id, from the model"),
        ("name", "t.name", "the tool"),
        (
            "op",
            "(SELECT u.op FROM usage u WHERE u.run = t.run AND u.seq = t.seq)",
            "the model call",
        ),
        (
            "at",
            "(SELECT e.at FROM entries e WHERE e.run = t.run AND e.seq = t.seq)",
            "when the reply came",
        ),
        (
            "arguments",
            "(SELECT torpor_arguments(e.data, t.n) FROM entries e "
            "WHERE e.run = t.run AND e.seq = t.seq)",
            "JSON, as the model wrote it",
        ),
        (
            "result",
            f"(SELECT {_CONTENT} {_SENT} WHERE i.run = l.run AND t.id = "
            "coalesce(item ->> '$.tool_call_id', item ->> '$.call_id'))",
            "what the agent sent back",
        ),
    ),
    _of_log("tool_uses", "t"),
)

steps = View(
    "steps",
    "Every step.",
    _columns(
        *_IN_OP,
        ("name", _name_in("b.op", "step"), "the step's name"),
        ("seq", "b.seq", "the entry where it began"),
        *_TIMES,
        (
            "ok",
            f"json_extract({_RESULT}, '$.ok')",
            "1, or 0 if it failed; null if it has no result yet",
        ),
        ("error_type", f"{_RESULT} ->> '$.error.type'", "if it failed"),
        ("error", f"{_RESULT} ->> '$.error.message'", "if it failed"),
        _REPEATS,
        ("arguments", "b.data -> '$.data'", "JSON: `{args, kwargs}`"),
        ("value", f"{_RESULT} -> '$.value'", "JSON: what it returned"),
        ("place", "b.data ->> '$.at'", "where it is called in the agent's source"),
    ),
    _operations("step"),
)

_REQUESTS = "b.data ->> '$.data"

artifacts = View(
    "artifacts",
    "Every version of every artifact: files that runs published, and those kept at their ends.",
    _columns(
        *_IN_OP,
        ("name", f"{_REQUESTS}.name'", "the artifact's name"),
        ("at", _ENDED, "when it was recorded; null if it was interrupted"),
        ("bytes", f"{_RESULT} ->> '$.blob.bytes'", "its size; null if there is no content"),
        ("digest", f"{_RESULT} ->> '$.blob.digest'", "BLAKE3 of its content"),
        ("media_type", f"{_REQUESTS}.media_type'", "as published, or guessed from its name"),
        ("step", f"{_REQUESTS}.step'", "the step in whose body it was published"),
        (
            "kept",
            f"coalesce({_REQUESTS}.kept', 0)",
            "1 if it was not published, but there at the end",
        ),
    ),
    _operations("artifact"),
    (
        (
            (
                "l.run, b.op",
                f"{_REQUESTS}.name', {_ENDED}, {_RESULT} ->> '$.blob.bytes'",
                f"{_RESULT} ->> '$.blob.digest', {_REQUESTS}.media_type', {_REQUESTS}.step'",
                f"coalesce({_REQUESTS}.kept', 0)",
            ),
            _operations("file"),
        ),
    ),
)

waits = View(
    "waits",
    "Everything that runs wait or waited for: people, times, events.",
    _columns(
        ("id", "w.id", "the wait"),
        ("run", "w.run", "the run"),
        ("op", "w.op", "the operation"),
        ("kind", "w.kind", "`wait`, `sleep`, `doubt`, …"),
        ("prompt", "w.prompt", "the question"),
        ("data", "w.data", "JSON: the data shown with it"),
        ("approve", "w.approve", "1 if the answer is yes or no"),
        ("state", "w.state", "`open`, `completed`, `timeout`, `cancelled`"),
        ("approved", "w.value ->> '$.approved'", "1 yes, 0 no"),
        ("value", "w.value", "JSON: the answer"),
        ("by", 'w."by"', "who answered"),
        ("created_at", "w.created_at", "when it began"),
        ("due_at", "w.due_at", "when it times out; null for never"),
        ("completed_at", "w.completed_at", "when it ended"),
        ("waited_s", "w.completed_at - w.created_at", "between the two"),
    ),
    "FROM main.waits w",
)

snapshots = View(
    "snapshots",
    "Every snapshot that was taken of a run's machine.",
    _columns(
        ("id", "s.id", "the snapshot"),
        ("run", "s.run", "the run"),
        ("seq", "s.seq", "its position in the run's log"),
        ("epoch", "s.epoch", "the epoch of its machine"),
        ("parent", "s.parent", "the snapshot that it is a difference from"),
        ("bytes", "s.bytes", "its size on disk"),
        ("pause_ms", "s.pause_ms", "milliseconds that the machine stood still"),
        ("freeze_ms", "s.freeze_ms", "milliseconds from the decision until it was durable"),
        ("created_at", "s.created_at", "when it was taken"),
        ("pinned", "s.pinned", "1 if it is kept regardless of the agent's `keep`"),
        ("reclaimed_at", "s.reclaimed_at", "when its bytes were removed"),
    ),
    "FROM main.snapshots s WHERE s.run IS NOT NULL",
)


def _url(at: str, target: str) -> str:
    """Of a request that is an operation's data; those to the deployment's own model name no
    host."""
    host, scheme, port = (f"({at}.{each}')" for each in ("host", "scheme", "port"))
    usual = f"CASE {scheme} WHEN 'https' THEN 443 WHEN 'http' THEN 80 END"
    server = (
        f"{scheme} || '://' || {host} || CASE {port} WHEN {usual} THEN '' ELSE ':' || {port} END"
    )
    return f"coalesce({server}, 'http://{MODEL_HOST}') || ({at}.{target}')"


_EGRESS = (
    ("run", "the run"),
    ("op", "the operation that it is, if it is recorded, or that asks for a permission"),
    ("seq", "the entry where it began"),
    ("at", "when it was let out, refused, or asked for"),
    ("ended_at", "when it ended; null if it has not"),
    ("verdict", "`allow`, `deny`, or `ask` while nobody has decided"),
    ("method", "HTTP's; null of a connection"),
    ("url", "`https://…`, `tcp://…`; null where only a name was looked up"),
    ("host", "its name"),
    ("path", "without the query"),
    ("status", "HTTP's; null without an answer"),
    ("code", "of a refusal, for programs"),
    ("reason", "of a refusal, or why the exchange broke off, in words"),
    ("times", "of a refusal: how often by then"),
    ("rule", "which decided: how the agent's file, or the host's, has it"),
    ("secret", "the name of the secret that went along"),
    ("permitted_by", "the person who allowed or denied it"),
    ("permitted_at", "when they did"),
    ("permitted_from", "from where: an API key and its address, the public link, …"),
    ("sent_bytes", "of the request's body"),
    ("received_bytes", "of the answer's body"),
    ("ms", "milliseconds until its end"),
    ("cost_usd", "of a model call, by the table of prices; null if that has no price"),
)


def _arm(url: str, source: str, **given: str) -> tuple[tuple[str, ...], str]:
    found = {"host": f"torpor_host({url})", "path": f"torpor_path({url})", "url": url} | given
    return tuple(found.get(name, "NULL") for name, _ in _EGRESS), source


def _origin(op: str) -> str:
    """From where a wait was answered: its entry has that."""
    return (
        "(SELECT o.data ->> '$.origin' FROM main.entries o WHERE o.run IN (l.run, b.run) "
        f"AND o.kind = 'wait.completed' AND o.op = {op})"
    )


def _recorded(kind: str, cost: str = "NULL", more: str = "") -> tuple[tuple[str, ...], str]:
    """Exchanges that are operations."""
    out = f"{_RESULT} -> '$.egress'"
    permission = "b.data ->> '$.data.permission'"
    of_wait = f"FROM main.waits w WHERE w.run IN (l.run, b.run) AND w.op = {permission})"
    return _arm(
        _url("b.data ->> '$.data", "path"),
        _operations(kind) + more,
        run="l.run",
        op="b.op",
        seq="b.seq",
        at="b.at",
        ended_at=_ENDED,
        verdict="'allow'",
        method="b.data ->> '$.data.method'",
        status=f"{_RESULT} ->> '$.value.status'",
        reason=f"{_RESULT} ->> '$.error.message'",
        rule=f"{out} ->> '$.rule'",
        secret=f"{out} ->> '$.secret'",
        permitted_by=f'(SELECT w."by" {of_wait}',
        permitted_at=f"(SELECT w.completed_at {of_wait}",
        permitted_from=f"CASE WHEN {permission} IS NOT NULL THEN {_origin(permission)} END",
        sent_bytes=f"coalesce({out} ->> '$.sent', length(b.data ->> '$.data.body'))",
        received_bytes=f"coalesce({out} ->> '$.received', length({_RESULT} ->> '$.value.body'))",
        ms=f"coalesce({out} ->> '$.ms', 1000 * ({_ENDED} - b.at))",
        cost_usd=cost,
    )


def _noted(kind: str) -> str:
    """Entries about what went out, or was to; an index has them alone."""
    return (
        _of_log("entries", "e")
        + f" AND e.kind >= 'egress.' AND e.kind < 'egress/' AND e.kind = '{kind}'"
    )


_plain = _arm(
    "e.data ->> '$.url'",
    _noted("egress.request")
    + " LEFT JOIN entries z ON z.run = e.run AND z.kind >= 'egress.' AND z.kind < 'egress/' "
    "AND z.kind = 'egress.end' AND z.data ->> '$.id' = e.data ->> '$.id' AND EXISTS (SELECT 1 "
    "FROM lineage m WHERE m.run = l.run AND m.source = z.run AND z.seq > m.after_seq "
    "AND z.seq <= m.upto_seq)",
    run="l.run",
    seq="e.seq",
    at="e.at",
    ended_at="z.at",
    verdict="'allow'",
    method="nullif(e.data ->> '$.method', '')",
    status="z.data ->> '$.status'",
    reason="z.data ->> '$.problem'",
    rule="e.data ->> '$.rule'",
    secret="e.data ->> '$.secret'",
    sent_bytes="z.data ->> '$.sent'",
    received_bytes="z.data ->> '$.received'",
    ms="z.data ->> '$.ms'",
)
_refused = _arm(
    "e.data ->> '$.url'",
    _noted("egress.refused"),
    run="l.run",
    seq="e.seq",
    at="e.at",
    ended_at="e.at",
    verdict="'deny'",
    method="e.data ->> '$.method'",
    host="coalesce(torpor_host(e.data ->> '$.url'), e.data ->> '$.name')",
    code="e.data ->> '$.code'",
    reason="e.data ->> '$.reason'",
    times="coalesce(e.data ->> '$.times', 1)",
    rule="e.data ->> '$.rule'",
)
# Once allowed, a request is an operation of its own.
_waiting = _arm(
    _url("w.data ->> '$.request", "target"),
    _operations("permission")
    + " JOIN main.waits w ON w.op = b.op AND w.run = CASE WHEN EXISTS (SELECT 1 FROM main.waits x "
    "WHERE x.run = l.run AND x.op = b.op) THEN l.run ELSE b.run END "
    "WHERE w.data ->> '$.request.host' IS NOT NULL "
    "AND coalesce(w.value ->> '$.data.decision', '') NOT IN ('once', 'run')",
    run="l.run",
    op="b.op",
    seq="b.seq",
    at="b.at",
    ended_at="w.completed_at",
    verdict="CASE w.state WHEN 'open' THEN 'ask' ELSE 'deny' END",
    method="w.data ->> '$.request.method'",
    code="CASE w.state WHEN 'open' THEN NULL WHEN 'completed' THEN 'denied' ELSE w.state END",
    reason="w.value ->> '$.data.reason'",
    times="CASE w.state WHEN 'open' THEN NULL ELSE 1 END",
    permitted_by='w."by"',
    permitted_at='CASE WHEN w."by" IS NOT NULL THEN w.completed_at END',
    permitted_from=_origin("b.op"),
    ms="1000 * (w.completed_at - b.at)",
)
_models = _recorded(
    "model",
    "torpor_cost(u.model, u.input_tokens, u.cached_tokens, u.output_tokens)",
    _USED,
)

egress = View(
    "egress",
    "Every request that left a machine, was refused, or waits for a permission. A refusal that "
    "repeats itself has a few rows, each with how often it was by then.",
    _columns(*((name, sql, about) for (name, about), sql in zip(_EGRESS, _plain[0], strict=True))),
    _plain[1],
    (_models, _recorded("http"), _refused, _waiting),
)


def _sum(what: str, source: str) -> str:
    return f"coalesce((SELECT sum({what}) FROM {source}), 0)"


def _own(kind: str, of: str = "") -> str:
    """A run's own entries: of those that it shares with its origin, it has used nothing."""
    if of:
        ops = f"x.op >= '{of}:' AND x.op < '{of};'"
        return f"entries x WHERE x.run = r.id AND x.kind = '{kind}' AND {ops}"
    return (
        "entries x WHERE x.run = r.id AND x.kind >= 'egress.' AND x.kind < 'egress/' "
        f"AND x.kind = '{kind}'"
    )


def _bytes(way: str) -> str:
    plain = _sum(f"x.data ->> '$.{way}'", _own("egress.end"))
    recorded = (_sum(f"x.data ->> '$.egress.{way}'", _own("op.end", of)) for of in _RECORDED)
    return " + ".join((plain, *recorded))


_RECORDED = ("model", "http")
_OF_USAGE = "usage u WHERE u.run = r.id"
_USED_OF = {
    "cost": _sum(
        "torpor_charge(u.model, u.status, u.input_tokens, u.cached_tokens, u.output_tokens)",
        _OF_USAGE,
    ),
    "tokens": _sum("coalesce(u.input_tokens, 0) + coalesce(u.output_tokens, 0)", _OF_USAGE),
    "requests": " + ".join(
        (
            _sum("1", _own("egress.request")),
            *(_sum("1", _own("op.begin", of)) for of in _RECORDED),
        )
    ),
    "bytes_out": _bytes("sent"),
    "bytes_in": _bytes("received"),
}


def _budget(kind: str) -> tuple[str, ...]:
    asks = "coalesce(a.budget ->> '$.ask', 0)"
    return "r.id", "r.agent", f"'{kind}'", _USED_OF[kind], f"torpor_limit(a.budget, '{kind}')", asks


_BUDGETS = "FROM main.runs r LEFT JOIN main.agents a ON a.version = r.version"

budgets = View(
    "budgets",
    "What each run has used of the network, and what its agent's budget allows.",
    _columns(
        *(
            (name, sql, about)
            for (name, about), sql in zip(
                (
                    ("run", "the run"),
                    ("agent", "the agent's name"),
                    ("kind", "`cost` (US dollars), `tokens`, `requests`, `bytes_out`, `bytes_in`"),
                    (
                        "used",
                        "by the run itself; a model call whose price nobody knows counts as what "
                        "the host's file sets for it",
                    ),
                    ("allowed", "null is without limit"),
                    ("asks", "1 if a person is asked about what passes it, 0 if that is denied"),
                ),
                _budget("cost"),
                strict=True,
            )
        )
    ),
    _BUDGETS,
    tuple((_budget(kind), _BUDGETS) for kind in list(_USED_OF)[1:]),
)

output = View(
    "output",
    "What agents printed, logged and emitted.",
    _columns(
        ("run", "l.run", "the run"),
        ("seq", "e.seq", "the entry"),
        ("at", "e.at", "when"),
        (
            "stream",
            "CASE e.kind WHEN 'output' THEN e.data ->> '$.stream' ELSE substr(e.kind, 6) END",
            "`stdout`, `stderr`, `log` or `emit`",
        ),
        (
            "text",
            "CASE e.kind WHEN 'output' THEN e.data ->> '$.text' "
            "WHEN 'note.log' THEN e.data ->> '$.message' "
            "ELSE coalesce(e.data -> '$.value', e.data) END",
            "the text; of `emit`, JSON",
        ),
        ("data", "CASE e.kind WHEN 'note.log' THEN e.data -> '$.data' END", "JSON: of `log`"),
        ("op", "e.op", "the step that logged or emitted it"),
    ),
    _of_log("entries", "e") + " AND e.kind IN ('output', 'note.log', 'note.emit')",
)

VIEWS = (
    runs,
    log,
    messages,
    model_calls,
    tool_calls,
    steps,
    artifacts,
    waits,
    snapshots,
    egress,
    budgets,
    output,
)
