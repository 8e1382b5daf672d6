"""What may be asked about: each view, its columns with what they mean, and its SQL.

This is a public surface: docs/sql.md is checked against it. Times are unix seconds. Columns of
JSON are text, for `->`, `->>` and json_each. Functions named `torpor_…` are Python's
(`torpor.query.worker`); they are called for the rows and columns that are asked for only.
"""

from __future__ import annotations

from torpor.engine.registry import NAMES
from torpor.query.outgoing import budgets, egress
from torpor.query.parts import (
    ENDED,
    IN_OP,
    RESULT,
    TIMES,
    USED,
    View,
    columns,
    name_in,
    of_log,
    operations,
)


def _so_far(state: str, column: str) -> str:
    """The seconds of a column, with those since the run came into this state."""
    since = "max(0.0, (julianday('now') - 2440587.5) * 86400.0 - r.state_since)"
    return f"r.{column} + CASE r.state WHEN '{state}' THEN {since} ELSE 0.0 END"


runs = View(
    "runs",
    "Every run.",
    columns(
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
    columns(
        ("run", "l.run", "the run"),
        ("seq", "e.seq", "its position in the run's log: 1, 2, …"),
        ("at", "e.at", "when it was written"),
        ("epoch", "e.epoch", "the machine that wrote it; null if the host did"),
        ("kind", "e.kind", "`run.…`, `op.begin`, `op.end`, `wait.…`, `output`, `note.…`, …"),
        ("op", "e.op", "the operation that it belongs to"),
        ("data", "e.data", "JSON; messages to models are in `messages`"),
    ),
    of_log("entries", "e"),
)

_ITEM = "ltrim(x.text, ', ' || char(9, 10, 13))"
_CONTENT = (
    "CASE json_type(item, '$.content') WHEN 'text' THEN item ->> '$.content' "
    "WHEN 'null' THEN NULL ELSE coalesce(item -> '$.content', item ->> '$.output') END"
)
_SENT = (
    "FROM (SELECT l.run, s.seq, s.n, "
    f"CASE WHEN json_valid({_ITEM}) THEN {_ITEM} END AS item "
    f"{of_log('said', 's')} CROSS JOIN conversations v ON v.digest = s.node "
    "CROSS JOIN main.messages x ON x.digest = v.message) i"
)

messages = View(
    "messages",
    "Messages to and from models. A message that is sent again with each call of a growing "
    "conversation is here once; a reply that the agent later sends back is here as received and as "
    "sent.",
    columns(
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
            of_log("usage", "u"),
        ),
        (
            (
                "l.run, e.seq, NULL, 'context', e.data ->> '$.data.message.role'",
                "CASE json_type(e.data, '$.data.message.content') "
                "WHEN 'text' THEN e.data ->> '$.data.message.content' "
                "ELSE e.data -> '$.data.message.content' END",
                "e.data ->> '$.data.message.tool_call_id', e.data -> '$.data.message'",
            ),
            of_log("entries", "e")
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

model_calls = View(
    "model_calls",
    "Every model call.",
    columns(
        *IN_OP,
        ("seq", "b.seq", "the entry where it began"),
        (
            "model",
            "coalesce(u.model, torpor_model(b.data))",
            "the model that replied, or else the one requested",
        ),
        *TIMES,
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
    operations("model") + USED,
)

tool_calls = View(
    "tool_calls",
    "Every tool call in a model's reply.",
    columns(
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
    of_log("tool_uses", "t"),
)

steps = View(
    "steps",
    "Every step.",
    columns(
        *IN_OP,
        ("name", name_in("b.op", "step"), "the step's name"),
        ("seq", "b.seq", "the entry where it began"),
        *TIMES,
        (
            "ok",
            f"json_extract({RESULT}, '$.ok')",
            "1, or 0 if it failed; null if it has no result yet",
        ),
        ("error_type", f"{RESULT} ->> '$.error.type'", "if it failed"),
        ("error", f"{RESULT} ->> '$.error.message'", "if it failed"),
        _REPEATS,
        ("arguments", "b.data -> '$.data'", "JSON: `{args, kwargs}`"),
        ("value", f"{RESULT} -> '$.value'", "JSON: what it returned"),
        ("place", "b.data ->> '$.at'", "where it is called in the agent's source"),
    ),
    operations("step"),
)

_REQUESTS = "b.data ->> '$.data"

artifacts = View(
    "artifacts",
    "Every version of every artifact: files that runs published, and those kept at their ends.",
    columns(
        *IN_OP,
        ("name", f"{_REQUESTS}.name'", "the artifact's name"),
        ("at", ENDED, "when it was recorded; null if it was interrupted"),
        ("bytes", f"{RESULT} ->> '$.blob.bytes'", "its size; null if there is no content"),
        ("digest", f"{RESULT} ->> '$.blob.digest'", "BLAKE3 of its content"),
        ("media_type", f"{_REQUESTS}.media_type'", "as published, or guessed from its name"),
        ("step", f"{_REQUESTS}.step'", "the step in whose body it was published"),
        (
            "kept",
            f"coalesce({_REQUESTS}.kept', 0)",
            "1 if it was not published, but there at the end",
        ),
    ),
    operations("artifact"),
    (
        (
            (
                "l.run, b.op",
                f"{_REQUESTS}.name', {ENDED}, {RESULT} ->> '$.blob.bytes'",
                f"{RESULT} ->> '$.blob.digest', {_REQUESTS}.media_type', {_REQUESTS}.step'",
                f"coalesce({_REQUESTS}.kept', 0)",
            ),
            operations("file"),
        ),
    ),
)

waits = View(
    "waits",
    "Everything that runs wait or waited for: people, times, events.",
    columns(
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
    columns(
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


output = View(
    "output",
    "What agents printed, logged and emitted.",
    columns(
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
    of_log("entries", "e") + " AND e.kind IN ('output', 'note.log', 'note.emit')",
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
