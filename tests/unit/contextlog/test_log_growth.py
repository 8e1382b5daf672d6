"""What is done often costs the same however long the log is, and however many forks lie behind it.

Counted in steps of SQLite's virtual machine, which are the same each time, and looked at in its
query plans: nothing is read through, nothing is sorted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from torpor.contextlog import schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import (
    NewEntry,
    append,
    journal,
    journal_holds,
    read_end,
    read_entries,
    read_op,
    read_result,
    seen_before,
)
from torpor.contextlog.forks import fork_of, fork_run
from torpor.contextlog.output import Piece, append_output
from torpor.contextlog.runs import claim, create_run, get_run
from torpor.contextlog.waits import NewWait, complete_wait, create_wait, end_due, next_due
from torpor.core.ids import AgentVersion, Epoch, OpId, RunId, Seq
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import make_engine

VERSION = AgentVersion("a" * 32)
SHORT, LONG = 100, 20_000
# Of a B-tree's height, and pages that split just then.
TOLERANCE = 1.1


class Log:
    """A log in memory, without fsyncs, and what is done in it."""

    def __init__(self) -> None:
        self.engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
        self.c: Connection = self.engine.connect()
        prepare(self.c)
        put_agent(
            self.c,
            NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}),
            1.0,
        )
        self.run = create_run(self.c, version=VERSION, agent=None, input={}, now=1.0).id
        self.epoch = claim(self.c, self.run, 1.0)
        self.steps, self.n = 0, 0

    def close(self) -> None:
        self.c.close()
        self.engine.dispose()

    def grow(self, entries: int) -> None:
        """Begun and ended steps, output among them, up to so many."""
        last = get_run(self.c, self.run).last_seq
        rows = []
        for seq in range(last + 1, entries + 1):
            n, part = divmod(seq, 3)
            op = None if part == 2 else f"step:old#{n}"
            kind = ("op.begin", "op.end", "output")[part]
            data: dict[str, Any] = {"kind": "step", "name": "old", "digest": "d"}
            data |= {"ok": True, "stream": "stdout", "text": "x" * 50, "offset": 0}
            rows.append({"run": self.run, "seq": seq, "at": 1.0, "kind": kind, "op": op})
            rows[-1] |= {"epoch": self.epoch, "data": data}
        self.c.execute(insert(schema.entries), rows)
        self.c.execute(schema.runs.update().values(last_seq=entries))

    def fork(self) -> None:
        row = get_run(self.c, self.run)
        made = fork_run(self.c, row, fork_of(row, row.last_seq), _same, 1.0)
        self.run, self.epoch = made.id, claim(self.c, made.id, 1.0)

    def cost(self, do: Callable[[Log], object]) -> int:
        connection: Any = self.c.connection.driver_connection
        self.steps = 0

        def count() -> int:
            self.steps += 1
            return 0

        connection.set_progress_handler(count, 1)
        try:
            do(self)
        finally:
            connection.set_progress_handler(None, 1)
        return self.steps

    def op(self) -> OpId:
        self.n += 1
        return OpId(f"step:new#{self.n}")

    @contextmanager
    def plans(self) -> Iterator[dict[str, list[str]]]:
        """Of each statement that is run inside."""
        found: dict[str, list[str]] = {}
        run: list[str] = []  # with their parameters in them
        connection: Any = self.c.connection.driver_connection
        connection.set_trace_callback(run.append)
        try:
            yield found
        finally:
            connection.set_trace_callback(None)
        for statement in run:
            if statement.startswith(("SELECT", "UPDATE", "WITH")):
                rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}")
                found[statement] = [row[3] for row in rows]


def _same(owner: RunId, wrapped: bytes, fork: RunId) -> bytes:
    return wrapped


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    yield log
    log.close()


def step(log: Log) -> None:
    op = log.op()
    begin = NewEntry("op.begin", op, {"kind": "step", "name": "new", "digest": "d"})
    append(log.c, log.run, log.epoch, [begin], 2.0)
    append(log.c, log.run, log.epoch, [NewEntry("op.end", op, {"ok": True, "value": 1})], 2.0)


def output(log: Log) -> None:
    have = get_run(log.c, log.run).out_offset
    append_output(log.c, log.run, log.epoch, Piece("stdout", have, "x" * 10), 2.0)


def note(log: Log) -> None:
    append(log.c, log.run, log.epoch, [NewEntry("note.log", None, {"message": "x"})], 2.0)


def wait(log: Log) -> None:
    op = log.op()
    named: dict[str, Any] = {"op": op, "name": "new", "digest": "d", "kind": "wait"}
    made = create_wait(log.c, log.run, log.epoch, NewWait(**named), 2.0)
    complete_wait(log.c, made.id, value={"data": 1}, now=3.0)
    end_due(log.c, 1.0)
    next_due(log.c)


def recover(log: Log) -> None:
    """What a machine's start reads, for a snapshot near the end of the log."""
    last = get_run(log.c, log.run).last_seq
    journal(log.c, log.run, last - 10)
    journal_holds(log.c, log.run, last)
    log.epoch = Epoch(claim(log.c, log.run, 4.0))
    op = log.op()
    begin = NewEntry("op.begin", op, {"kind": "step", "name": "new", "digest": "d"})
    append(log.c, log.run, log.epoch, [begin, begin_again(op)], 2.0)
    read_op(log.c, log.run, op)
    read_end(log.c, log.run, op)
    read_result(log.c, log.run, op)
    seen_before(log.c, log.run, [op])


def begin_again(op: OpId) -> NewEntry:
    return NewEntry("op.begin", OpId(f"{op}x"), {"kind": "step", "name": "n", "digest": "d"})


def page(log: Log) -> None:
    read_entries(log.c, log.run, 10, None, 20)
    read_entries(log.c, log.run, get_run(log.c, log.run).last_seq - 5, None, 20)


OFTEN = [step, note, output, wait, recover, page]


@pytest.mark.parametrize("do", OFTEN)
def test_no_cost_grows_with_the_log(log: Log, do: Callable[[Log], object]) -> None:
    log.grow(SHORT)
    do(log)
    short = log.cost(do)
    log.grow(LONG)
    do(log)
    assert short < log.cost(do) * TOLERANCE  # it was counted
    assert log.cost(do) < short * TOLERANCE


@pytest.mark.parametrize("do", [step, note, wait])
def test_a_fork_pays_little_for_each_that_it_comes_from(
    log: Log, do: Callable[[Log], object]
) -> None:
    log.grow(SHORT)
    do(log)
    alone = log.cost(do)
    for _ in range(10):
        log.fork()
    do(log)
    assert log.cost(do) < 4 * alone


@pytest.mark.parametrize("do", OFTEN)
def test_nothing_is_read_through_or_sorted(log: Log, do: Callable[[Log], object]) -> None:
    log.grow(SHORT)
    log.fork()
    with log.plans() as plans:
        do(log)
    assert plans
    for statement, plan in plans.items():
        for line in plan:
            bad = re.search(r"SCAN (?!CONSTANT)|B-TREE FOR ORDER|AUTOMATIC|MATERIALIZE", line)
            assert not bad, (statement, plan)
    assert Seq(SHORT) < get_run(log.c, log.run).last_seq
