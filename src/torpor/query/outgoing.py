"""Views of what left machines, or was to, and of what that used."""

from __future__ import annotations

from torpor.core.egress import MODEL_HOST
from torpor.query.parts import ENDED, RESULT, USED, View, columns, of_log, operations


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
    ("code", "of a refusal, for programs; `cancelled` where its run ended under it"),
    ("reason", "of a refusal, or why it has no answer or a part of one, in words"),
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


def _under_run(ended: str, what: str) -> str:
    """`what` of the run, if that ended before `ended` was: nothing is under way any more."""
    return (
        f"CASE WHEN {ended} IS NULL THEN (SELECT {what} FROM main.runs r "
        "WHERE r.id = l.run AND r.ended_at IS NOT NULL) END"
    )


def _cut_off(ended: str) -> dict[str, str]:
    """Of what may have ended with its run alone, the columns that say so."""
    how = "CASE r.state WHEN 'cancelled' THEN 'was cancelled' ELSE 'ended' END"
    return {
        "ended_at": f"coalesce({ended}, {_under_run(ended, 'r.ended_at')})",
        "code": _under_run(ended, "'cancelled'"),
        "reason": _under_run(ended, f"'the run ' || {how} || ' before its end was in the log'"),
    }


def _recorded(kind: str, cost: str = "NULL", more: str = "") -> tuple[tuple[str, ...], str]:
    """Exchanges that are operations, also those that were refused as they began."""
    out = f"{RESULT} -> '$.egress'"
    refused = f"{out} ->> '$.code'"
    cut = _cut_off(ENDED)

    def answered(sql: str) -> str:
        """The answer to what was refused is torpor's own."""
        return f"CASE WHEN {refused} IS NULL THEN {sql} END"

    permission = "b.data ->> '$.data.permission'"
    of_wait = f"FROM main.waits w WHERE w.run IN (l.run, b.run) AND w.op = {permission})"
    return _arm(
        _url("b.data ->> '$.data", "path"),
        operations(kind) + more,
        run="l.run",
        op="b.op",
        seq="b.seq",
        at="b.at",
        ended_at=cut["ended_at"],
        verdict=f"CASE WHEN {refused} IS NULL THEN 'allow' ELSE 'deny' END",
        method="b.data ->> '$.data.method'",
        status=answered(f"{RESULT} ->> '$.value.status'"),
        code=f"coalesce({refused}, {cut['code']})",
        reason=f"coalesce({out} ->> '$.reason', {RESULT} ->> '$.error.message', "
        f"{RESULT} ->> '$.value.cut', {cut['reason']})",
        times=f"CASE WHEN {refused} IS NOT NULL THEN 1 END",
        rule=f"{out} ->> '$.rule'",
        secret=f"{out} ->> '$.secret'",
        permitted_by=f'(SELECT w."by" {of_wait}',
        permitted_at=f"(SELECT w.completed_at {of_wait}",
        permitted_from=f"CASE WHEN {permission} IS NOT NULL THEN {_origin(permission)} END",
        sent_bytes=answered(f"coalesce({out} ->> '$.sent', length(b.data ->> '$.data.body'))"),
        received_bytes=answered(
            f"coalesce({out} ->> '$.received', {RESULT} ->> '$.value.blob.bytes', "
            f"length({RESULT} ->> '$.value.body'))"
        ),
        ms=answered(f"coalesce({out} ->> '$.ms', 1000 * ({ENDED} - b.at))"),
        cost_usd=cost,
    )


def _noted(kind: str) -> str:
    """Entries about what went out, or was to; an index has them alone."""
    return (
        of_log("entries", "e")
        + f" AND e.kind >= 'egress.' AND e.kind < 'egress/' AND e.kind = '{kind}'"
    )


_of_plain = _cut_off("z.at")
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
    ended_at=_of_plain["ended_at"],
    verdict="'allow'",
    method="nullif(e.data ->> '$.method', '')",
    status="z.data ->> '$.status'",
    code=_of_plain["code"],
    reason=f"coalesce(z.data ->> '$.problem', {_of_plain['reason']})",
    rule="e.data ->> '$.rule'",
    secret="e.data ->> '$.secret'",
    sent_bytes="z.data ->> '$.sent'",
    received_bytes="z.data ->> '$.received'",
    ms="z.data ->> '$.ms'",
)
_refused = _arm(
    "e.data ->> '$.url'",
    # Those with an operation are the operation's row.
    _noted("egress.refused") + " AND e.data ->> '$.op' IS NULL",
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
    operations("permission")
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
    reason="CASE w.state WHEN 'completed' THEN w.value ->> '$.data.reason' "
    "WHEN 'timeout' THEN 'nobody decided in time' "
    "WHEN 'cancelled' THEN 'it was cancelled before anybody decided' END",
    times="CASE w.state WHEN 'open' THEN NULL ELSE 1 END",
    permitted_by='w."by"',
    permitted_at='CASE WHEN w."by" IS NOT NULL THEN w.completed_at END',
    permitted_from=_origin("b.op"),
    ms="1000 * (w.completed_at - b.at)",
)
_models = _recorded(
    "model",
    "torpor_cost(u.model, u.input_tokens, u.cached_tokens, u.output_tokens)",
    USED,
)

egress = View(
    "egress",
    "Every request that left a machine, was refused, or waits for a permission. A refusal that "
    "repeats itself has a few rows, each with how often it was by then.",
    columns(*((name, sql, about) for (name, about), sql in zip(_EGRESS, _plain[0], strict=True))),
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
# What a broker counted; else, of calls before that was written down, what their answers say.
_COUNTED = "x.data ->> '$.egress.used"
_OF_USAGE = (
    "usage u JOIN entries x ON x.run = u.run AND x.seq = u.seq "
    f"WHERE u.run = r.id AND {_COUNTED}.cost' IS NULL"
)
_HELD_BACK = f"x.data ->> '$.egress' IS NOT NULL AND {_COUNTED}' IS NULL"


def _counted(kind: str, others: str) -> str:
    of_each = (_sum(f"{_COUNTED}.{kind}'", _own("op.end", of)) for of in _RECORDED)
    return " + ".join((*of_each, _sum(others, _OF_USAGE)))


_USED_OF = {
    "cost": _counted(
        "cost",
        "torpor_charge(u.model, u.status, u.input_tokens, u.cached_tokens, u.output_tokens)",
    )
    + " + "
    + _sum("x.data ->> '$.cost'", _own("egress.end")),
    "tokens": _counted("tokens", "coalesce(u.input_tokens, 0) + coalesce(u.output_tokens, 0)"),
    "requests": " + ".join(
        (
            _sum("1", _own("egress.request")),
            *(_sum("1", _own("op.begin", of)) for of in _RECORDED),
            *(_sum("-1", f"{_own('op.end', of)} AND {_HELD_BACK}") for of in _RECORDED),
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
    columns(
        *(
            (name, sql, about)
            for (name, about), sql in zip(
                (
                    ("run", "the run"),
                    ("agent", "the agent's name"),
                    ("kind", "`cost` (US dollars), `tokens`, `requests`, `bytes_out`, `bytes_in`"),
                    (
                        "used",
                        "by the run itself, at the prices of when it was; a model call whose price "
                        "nobody knows counts as what the host's file sets for it",
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
