"""10,000 runs of a year: half asleep, each with a wait, a quarter done and a quarter failed.

One run of each kind is made as the control plane makes them; all others are its rows again, under
other names.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, Table, insert, select, update

from torpor.contextlog import entries, runs, schema, waits
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry
from torpor.core.home import Home
from torpor.core.ids import AgentVersion, OpId, RunId
from torpor.core.states import RunState
from torpor.logstore.sqlite import SqliteStore

RUNS = 10_000
LONG = 2_000  # steps of the longest
VERSION = AgentVersion("f" * 32)
BEGAN, APART_S = 1_700_000_000.0, 3000.0
EVIL = "</pre><script>alert('network')</script>"
_STATES = (RunState.SUSPENDED, RunState.COMPLETED, RunState.SUSPENDED, RunState.FAILED)
_AT_ONCE = 1000
_OF_RUNS: tuple[Table, ...] = (schema.lineage, schema.entries, schema.waits)

Row = dict[str, Any]


def seed(home: Home) -> dict[str, str]:
    """Into a home that no server has. What is where: `long` is a run with a long log, `out` one
    with requests to other hosts, `found` the only one that mentions a needle, `middle` has as many
    before as after it."""
    home.create()
    store = SqliteStore.open(home.database)
    try:
        # In a thread of its own: Playwright may have an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(_seed(store))).result()
    finally:
        store.close()
    return {"long": _id(1), "out": _id(4), "found": _id(2), "middle": _id(RUNS // 2)}


def _id(n: int) -> str:
    return f"run_0{n:015d}"


async def _seed(store: SqliteStore) -> None:
    made = await store.write(_models)
    for first in range(0, RUNS, _AT_ONCE):
        await store.write(lambda c, first=first: _copies(c, made, first))  # type: ignore[misc]
    await store.write(_long)
    await store.write(_out)


def _models(c: Connection) -> dict[RunState, RunId]:
    described = {"name": "seeded", "doc": "Was here.", "params": [], "open": False}
    put_agent(
        c,
        NewAgent(
            engine="process",
            version=VERSION,
            name="seeded",
            entry="seeded.py",
            source=b"",
            spec={"image": "process"},
            agents=[described],
        ),
        BEGAN,
    )
    return {state: _model(c, state) for state in set(_STATES)}


def _model(c: Connection, state: RunState) -> RunId:
    given = {"topic": "hay"}
    run = runs.create_run(c, version=VERSION, agent="seeded", input=given, now=BEGAN).id
    epoch = runs.claim(c, run, BEGAN + 1)
    said = NewEntry("note.log", None, {"message": "begun", "level": "info", "data": {}})
    entries.append(c, run, epoch, [said], BEGAN + 2)
    end: Row = {}
    if state is RunState.SUSPENDED:
        op = OpId("wait:approve#1")
        asked: Row = {"prompt": "Go on?", "data": {"draft": "Dear all,\n\nas you wish."}}
        waits.create_wait(
            c,
            run,
            epoch,
            waits.NewWait(op=op, name="approve", digest="d", kind="wait", approve=True, **asked),
            BEGAN + 3,
        )
    elif state is RunState.COMPLETED:
        end = {"result": "It was hay."}
    else:
        end = {"error": {"type": "ValueError", "message": "no luck", "traceback": None}}
    runs.transition(c, run, epoch, state, BEGAN + 9, **end)
    return run


def _copies(c: Connection, made: dict[RunState, RunId], first: int) -> None:
    for state in set(_STATES):
        wanted = [n for n in range(first, first + _AT_ONCE) if _STATES[n % len(_STATES)] is state]
        of = schema.runs.c.id == made[state]
        (model,) = _rows(c, schema.runs, of)
        c.execute(
            insert(schema.runs),
            [_later(model, n) | {"id": _id(n), "input": _in(n)} for n in wanted],
        )
        for table in _OF_RUNS:
            rows = _rows(c, table, table.c.run == made[state])
            copies = [_copy(row, n) for n in wanted for row in rows]
            if copies:
                c.execute(insert(table), copies)


def _in(n: int) -> Row:
    return {"topic": "a needle" if n == 2 else f"hay {n}", "n": n}


def _rows(c: Connection, table: Table, which: Any) -> list[Row]:
    return [dict(row._mapping) for row in c.execute(select(table).where(which))]


def _copy(row: Row, n: int) -> Row:
    named = {"run": _id(n)}
    if "source" in row:
        named["source"] = _id(n)
    if "id" in row:
        named["id"] = f"wait_0{n:014d}"
    return _later(row, n) | named


def _later(row: Row, n: int) -> Row:
    times = ("at", "created_at", "started_at", "ended_at", "state_since")
    return row | {key: row[key] + n * APART_S for key in times if row.get(key) is not None}


def _long(c: Connection) -> None:
    """A log of many steps, each a begin and an end."""
    rows: list[tuple[str, str | None, Row]] = []
    for n in range(LONG):
        op = f"step:work#{n}"
        begin = {"kind": "step", "name": "work", "digest": "d", "data": {"args": [n], "kwargs": {}}}
        end = {"ok": True, "value": {"did": n, "text": "some words " * 20}}
        rows += [("op.begin", op, begin), ("op.end", op, end)]
    _log(c, RunId(_id(1)), rows)


def _out(c: Connection) -> None:
    """Requests of all kinds, and a model's answer that still comes."""
    url = "https://api.example.com"
    sent = {"method": "POST", "path": "/v1/orders", "scheme": "https", "host": "api.example.com"}
    order = {**sent, "port": 443, "headers": {"accept": "*/*"}, "body": f'{{"dish": "{EVIL}"}}'}
    way = {"rule": "host api.example.com", "secret": "EXAMPLE_KEY", "address": "192.0.2.7"}
    answer = {"status": 201, "headers": {"content-type": "text/html"}, "body": EVIL}
    http, model = "http:api.example.com/v1/orders@1a2b3c4d#1", "model:/v1/chat/completions@1a2b#1"
    chat = {"model": "m", "messages": [{"role": "user", "content": f"About owls? {EVIL}"}]}
    asked = {"method": "POST", "path": "/v1/chat/completions", "body": json.dumps(chat)}
    action = {"request": order, "reason": f"to order {EVIL}"}
    wait = "permission:POST api.example.com/v1/orders@1a2b3c4d#1"
    value = {"status": "completed", "approved": True, "by": "ana"}
    value["data"] = {"decision": "once"}

    def begun(op: str, data: Row, **more: Row | str) -> tuple[str, str, Row]:
        kind, _, name = op.rpartition("#")[0].partition(":")
        return "op.begin", op, {"kind": kind, "name": name, "digest": "d", "data": data, **more}

    def out(number: int, path: str, **end: Row | int | str) -> list[tuple[str, None, Row]]:
        id_ = f"1.{number}"
        fields = {"id": id_, "method": "GET", "url": url + path, **way}
        ended: Row = {"id": id_, "sent": 0, "received": 12_345, "ms": 87, **end}
        return [("egress.request", None, fields), ("egress.end", None, ended)][: 1 + bool(end)]

    refused = {"code": "no_rule", "reason": f"no rule allows evil.example {EVIL}"}
    unknown = {"code": "unknown_name", "reason": "no rule of the agent names this host."}
    _log(
        c,
        RunId(_id(4)),
        [
            *out(1, "/v1/menu?day=today", status=200),
            *out(2, f"/{'long/' * 60}?{EVIL[:9]}", status=503),
            *out(3, "/v1/stream", status=200, problem="lost: the machine was frozen meanwhile"),
            *out(4, "/v1/under-way"),
            ("egress.refused", None, {"method": "GET", "url": "https://evil.example/", **refused}),
            ("egress.refused", None, {"name": "tracker.example", "times": 100, **unknown}),
            begun(wait, action, prompt="POST https://api.example.com/v1/orders"),
            ("op.end", wait, {"ok": True, "value": value}),
            begun(http, {**order, "permission": wait}),
            ("op.end", http, {"ok": True, "value": answer, "egress": {**way, "ms": 87}}),
            begun(model, asked),
            ("op.part", model, {"text": "Owls are "}),
            ("op.part", model, {"text": f"quiet. {EVIL}"}),
        ],
    )


def _log(c: Connection, run: RunId, more: Sequence[tuple[str, str | None, Row]]) -> None:
    row = runs.get_run(c, run)
    rows = [
        {
            "run": run,
            "seq": row.last_seq + n,
            "at": row.created_at + 10 + n,
            "epoch": 1,
            "kind": kind,
            "op": op,
            "data": data,
        }
        for n, (kind, op, data) in enumerate(more, 1)
    ]
    c.execute(insert(schema.entries), rows)
    last = update(schema.runs).where(schema.runs.c.id == run).values(last_seq=rows[-1]["seq"])
    c.execute(last)
