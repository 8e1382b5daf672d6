"""What questions take on a long log, and what the narrow rows for them cost when they are written.

The log is made up: runs of a hundred entries each, written beside each other as runs at work are;
in each twenty steps of four names (one in twenty fails), five model calls, three waits with their
freezes, notes and output. Questions are asked as the server asks them, each in a process of its
own; an append of a model call is timed with its narrow rows and without.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import Connection

from torpor.bench.stage import processor
from torpor.bench.stats import Spread, spread
from torpor.contextlog import codecs
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append
from torpor.contextlog.runs import claim, create_run
from torpor.core.ids import AgentVersion, OpId
from torpor.core.prices import DEFAULT, Prices
from torpor.core.replies import read_reply
from torpor.logstore.sqlite import SqliteStore, make_engine
from torpor.query.ask import Asking, Question
from torpor.terminal.screen import err, show, show_json, table
from torpor.web import words

PER_RUN = 100
_BESIDE = 50  # runs at work at the same time
_TIMES = 5
_CALLS = 300
_MODELS = ("gpt-4.1", "gpt-4.1-mini", "gpt-4o", "o4-mini")
_STEPS = ("search", "fetch", "book", "mail")
_VERSION = AgentVersion("b" * 32)
_FIRST = 1_795_000_000.0  # when the first run began; the others follow, one a minute
QUESTIONS = {
    "tokens and cost by model and day": (
        "SELECT date(began_at, 'unixepoch') AS day, model, sum(input_tokens), sum(output_tokens), "
        "sum(cost_usd) FROM model_calls GROUP BY day, model"
    ),
    "steps by name, with failures": (
        "SELECT name, count(*), sum(NOT ok) AS failed, avg(duration_s) FROM steps GROUP BY name"
    ),
    "one run's failed steps": (
        "SELECT * FROM steps WHERE run = (SELECT max(id) FROM runs) AND NOT ok"
    ),
    "runs by agent and state": "SELECT agent, state, count(*) FROM runs GROUP BY agent, state",
}


def main(entries: int, as_json: bool) -> int:
    """Measure and print: JSON or a table on stdout, progress on stderr."""
    with tempfile.TemporaryDirectory(prefix="torpor-bench-") as folder:
        with err.status(f"writing {entries:,} entries"):
            path = Path(folder) / "torpor.db"
            fill(path, entries)
        with err.status("asking"):
            ms = asyncio.run(_ask(path))
        with err.status("appending"):
            bare, narrow = _append_us(Path(folder) / "append.db")
    host: dict[str, Any] = {"processor": processor(), "cores": os.cpu_count(), "entries": entries}
    if as_json:
        spreads = {name: vars(each) for name, each in ms.items()}
        costs = {"append_us": vars(narrow), "append_without_us": vars(bare)}
        show_json({**host, "times": _TIMES, "questions_ms": spreads, **costs})
        return 0
    rows = [(name, *_figures(each, "ms")) for name, each in ms.items()]
    rows.append(("append of a model call", *_figures(narrow, "us")))
    rows.append(("the same without narrow rows", *_figures(bare, "us")))
    show(table((f"{entries:,} ENTRIES", "P50", "P90", "MAX"), rows))
    cores = words.count(os.cpu_count() or 1, "core")
    show(f"{processor()}, {cores}; {_TIMES} times each question, {_CALLS} calls appended.")
    return 0


def _figures(each: Spread, unit: str) -> tuple[str, str, str]:
    return f"{each.p50:,.0f} {unit}", f"{each.p90:,.0f} {unit}", f"{each.max:,.0f} {unit}"


def fill(path: Path, entries: int) -> None:
    """A database with so many entries, fifty runs a transaction."""
    SqliteStore.open(path).close()
    chance = random.Random(1)
    engine = make_engine(path, connections=1, begin="BEGIN")
    with engine.connect() as c:
        with c.begin():
            put_agent(
                c,
                NewAgent(
                    engine="qemu", version=_VERSION, name="a", entry="a.py", source=b"", spec={}
                ),
                1.0,
            )
        for first in range(0, entries // PER_RUN, _BESIDE):
            with c.begin():
                _fill_some(c, chance, range(first, first + _BESIDE))
    engine.dispose()


def _fill_some(c: Connection, chance: random.Random, runs: range) -> None:
    logs = []
    for n in runs:
        agent, now = f"agent{n % 5}", _FIRST + 60 * n
        # With the first entry.
        run = create_run(c, version=_VERSION, agent=agent, input={}, now=now).id
        logs.append(list(_log(chance, run, n)))
    for rows in zip(*logs, strict=True):
        c.exec_driver_sql("INSERT INTO entries VALUES (?, ?, ?, 1, ?, ?, ?)", list(rows))
    used = list(_usage(logs))
    c.exec_driver_sql("INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", used)


Row = tuple[str, int, float, str, str | None, str]


def _usage(logs: list[list[Row]]) -> Iterator[tuple[Any, ...]]:
    for run, seq, _, kind, op, data in (row for log in logs for row in log):
        if kind == "op.end" and op is not None and op.startswith("model:"):
            r = read_reply(json.loads(data)["value"])
            tokens = (r.input_tokens, r.cached_tokens, r.output_tokens)
            yield run, seq, op, r.model, r.status, *tokens, r.finish


def _log(chance: random.Random, run: str, n: int) -> Iterator[Row]:
    for seq, (kind, op, data) in enumerate(_entries(chance), start=2):
        yield run, seq, _FIRST + 60 * n + 0.3 * seq, kind, op, json.dumps(data)


def _entries(chance: random.Random) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    yield "run.started", None, {}
    yield "machine.up", None, {"resume_ms": 70.0, "snapshot": None, "warm": True}
    for n in range(20):
        name = chance.choice(_STEPS)
        op = f"step:{name}#{n + 1}"
        named = {"kind": "step", "name": name, "digest": "d" * 32, "at": "a.py:20"}
        yield "op.begin", op, named | {"data": {"args": [n, "x" * 60], "kwargs": {}}}
        yield "output", None, {"stream": "stdout", "text": "a line of output\n", "offset": 17 * n}
        printed = {"printed": {"stdout": 17 * n, "stderr": 0}}
        if chance.random() < 0.05:
            error = {"type": "ValueError", "message": "no", "traceback": "T" * 500}
            yield "op.end", op, {"ok": False, "error": error} | printed
        else:
            yield "op.end", op, {"ok": True, "value": {"found": "y" * 100}} | printed
    for n in range(5):
        op = f"model:/v1/chat/completions@{n:08x}#1"
        request = {"method": "POST", "path": "/v1/chat/completions", "headers": {}}
        named = {"kind": "model", "name": op[6:-2], "digest": "d" * 32, "at": ""}
        yield "op.begin", op, named | {"data": request | {"parts": ["{", ["c" * 32], "}"]}}
        yield "op.end", op, {"ok": True, "value": _answer(chance)}
    for n in range(3):
        op = f"wait:go#{n + 1}"
        yield "op.begin", op, {"kind": "wait", "name": "go", "digest": "d" * 32, "prompt": "Go?"}
        yield "snapshot", None, {"bytes": 120_000, "pause_ms": 7.0, "snapshot": "snap_0"}
        yield "run.suspended", None, {}
        yield "wait.completed", op, {"value": {"approved": True}}
        yield "op.end", op, {"ok": True, "value": {"approved": True}}
        yield "run.resumed", None, {}
        yield "machine.up", None, {"resume_ms": 180.0, "snapshot": "snap_0", "warm": True}
    for n in range(5):
        yield "note.log", None, {"message": f"note {n}", "level": "info", "data": {}}
    yield "run.completed", None, {"result": "done"}


def _answer(chance: random.Random) -> dict[str, Any]:
    message = {"role": "assistant", "content": "word " * 200}
    usage = {"prompt_tokens": chance.randrange(5000), "completion_tokens": chance.randrange(500)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    reply = {"model": chance.choice(_MODELS), "choices": choices, "usage": usage}
    return {"status": 200, "headers": {}, "body": json.dumps(reply)}


async def _ask(path: Path) -> dict[str, Spread]:
    """Milliseconds until the answer is there, the process's start and all."""
    asking, prices, ms = Asking(path), Prices.load(DEFAULT), dict[str, Spread]()
    for name, sql in QUESTIONS.items():
        took = []
        for _ in range(_TIMES):
            began = time.perf_counter()
            await asking.ask(Question(sql, timeout_s=60), prices)
            took.append(1000 * (time.perf_counter() - began))
        ms[name] = spread(took)
    return ms


def _append_us(path: Path) -> tuple[Spread, Spread]:
    """Microseconds of an append of a call's beginning and end, two messages more each time:
    without narrow rows, and with them."""

    async def measure(store: SqliteStore, record: Any) -> Spread:
        took: list[float] = []

        def write(c: Connection) -> None:
            run = create_run(c, version=_VERSION, agent=None, input={}, now=1.0).id
            epoch, chance = claim(c, run, 1.0), random.Random(1)
            messages = [{"role": "system", "content": f"Be brief. {run} " * 50}]
            for n in range(_CALLS):
                messages += [{"role": "user", "content": f"{n} " * 50}, {"role": "assistant"}]
                request = {"method": "POST", "path": "/v1/chat/completions", "headers": {}}
                request["body"] = json.dumps({"model": "m", "messages": messages[-40:]})
                op = OpId(f"model:{n}#1")
                named = {"kind": "model", "name": f"{n}", "digest": "d", "data": request}
                began = time.perf_counter()
                append(c, run, epoch, [NewEntry("op.begin", op, named)], 1.0)
                ended = {"ok": True, "value": _answer(chance)}
                append(c, run, epoch, [NewEntry("op.end", op, ended)], 1.0)
                took.append(1e6 * (time.perf_counter() - began))

        with mock.patch.object(codecs, "record", record):
            await store.write(write)
        return spread(took)

    async def both() -> tuple[Spread, Spread]:
        store = SqliteStore.open(path)
        try:
            await store.write(
                lambda c: put_agent(
                    c,
                    NewAgent(
                        engine="qemu", version=_VERSION, name="a", entry="a.py", source=b"", spec={}
                    ),
                    1.0,
                )
            )
            return await measure(store, lambda *_: None), await measure(store, codecs.record)
        finally:
            store.close()

    return asyncio.run(both())
