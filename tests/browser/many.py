"""10,000 runs of a year: half asleep, each with a wait, a quarter done and a quarter failed.

One run of each kind is made as the control plane makes them; all others are its rows again, under
other names.
"""

from __future__ import annotations

import asyncio
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
_STATES = (RunState.SUSPENDED, RunState.COMPLETED, RunState.SUSPENDED, RunState.FAILED)
_AT_ONCE = 1000
_OF_RUNS: tuple[Table, ...] = (schema.lineage, schema.entries, schema.waits)

Row = dict[str, Any]


def seed(home: Home) -> dict[str, str]:
    """Into a home that no server has. What is where: `long` is a run with a long log, `found` the
    only one that mentions a needle, `middle` has as many before as after it."""
    home.create()
    store = SqliteStore.open(home.database)
    try:
        # In a thread of its own: Playwright may have an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(_seed(store))).result()
    finally:
        store.close()
    return {"long": _id(1), "found": _id(2), "middle": _id(RUNS // 2)}


def _id(n: int) -> str:
    return f"run_0{n:015d}"


async def _seed(store: SqliteStore) -> None:
    made = await store.write(_models)
    for first in range(0, RUNS, _AT_ONCE):
        await store.write(lambda c, first=first: _copies(c, made, first))  # type: ignore[misc]
    await store.write(_long)


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
    run, rows = RunId(_id(1)), []
    last: int = runs.get_run(c, run).last_seq
    for n in range(LONG):
        op, at = f"step:work#{n}", BEGAN + APART_S + 10 + n
        begin = {"kind": "step", "name": "work", "digest": "d", "data": {"args": [n], "kwargs": {}}}
        end = {"ok": True, "value": {"did": n, "text": "some words " * 20}}
        for kind, data in (("op.begin", begin), ("op.end", end)):
            last += 1
            rows.append(
                {
                    "run": run,
                    "seq": last,
                    "at": at,
                    "epoch": 1,
                    "kind": kind,
                    "op": op,
                    "data": data,
                }
            )
    c.execute(insert(schema.entries), rows)
    c.execute(update(schema.runs).where(schema.runs.c.id == run).values(last_seq=last))
