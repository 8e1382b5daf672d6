"""Databases of former versions keep being read, and their runs go on.

`database-3.db.zst` is of torpor before there were migrations: one run that waits, with model calls,
a snapshot and a key; one that failed; and a fork of the first, which was sent an event.

`database-5.db.zst` is of torpor before there was a way out but to the model, with the engine
`process`: a run that waits after a model call and a step, and its fork, which waits too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from sqlalchemy import Connection, text
from tests.unit.logstore.described import described

from torpor.contextlog import (
    agents,
    keys,
    queues,
    runs,
    settings,
    snapshots,
    spent,
    values,
    waits,
)
from torpor.contextlog.entries import NewEntry, append, journal, read_entries, read_op
from torpor.core.egress import Budget
from torpor.core.ids import OpId, RunId, Seq
from torpor.core.states import RunState
from torpor.logstore.migrate import prepare
from torpor.logstore.sqlite import SqliteStore, make_engine

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
WAITING, FAILED, FORK = map(
    RunId, ("run_1m8g4w5hxjgv9m21", "run_1m8g4w5jn83kctpx", "run_1m8g4w5k1qdk0db0")
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def version() -> int:
    return 3


@pytest.fixture
def store(tmp_path: Path, version: int) -> Iterator[SqliteStore]:
    path = tmp_path / "torpor.db"
    packed = (HERE / f"database-{version}.db.zst").read_bytes()
    path.write_bytes(zstandard.ZstdDecompressor().decompress(packed))
    store = SqliteStore.open(path)
    yield store
    store.close()


@pytest.mark.parametrize("version", [3, 5])
async def test_it_becomes_a_database_of_today(store: SqliteStore) -> None:
    engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
    with engine.begin() as c:
        prepare(c)
        today = described(c)
    engine.dispose()
    assert await store.read(described) == today
    assert await store.read(lambda c: c.scalar(text("PRAGMA integrity_check"))) == "ok"


async def test_what_is_in_it_is_read(store: SqliteStore) -> None:
    def read(c: Connection) -> None:
        found = {run: runs.get_run(c, run) for run in (WAITING, FAILED, FORK)}
        assert {run: row.state for run, row in found.items()} == {
            WAITING: RunState.SUSPENDED,
            FAILED: RunState.FAILED,
            FORK: RunState.QUEUED,
        }
        assert found[WAITING].input == {"name": "Ada", "big": 2**80}
        assert found[FORK].origin == WAITING
        assert [wait.state for wait in waits.list_waits(c, run=WAITING)] == ["open"]
        calls = [read_op(c, WAITING, OpId(f"model:m#{n}"))["data"]["body"] for n in (1, 2)]
        first, second = (json.loads(body)["messages"] for body in calls)
        assert second[:1] == first and second[-1]["content"] == "and now?"
        assert [row["op"] for row in journal(c, WAITING, 0)] == [
            "model:m#1", "model:m#2", "step:pay#1", "wait:approve#1"
        ]  # fmt: skip
        shared = read_entries(c, WAITING, 0, limit=4)
        assert [row.data for row in read_entries(c, FORK, 0, limit=4)] == [
            row.data for row in shared
        ]
        newest = snapshots.newest_snapshot(c, WAITING)
        assert newest is not None and newest.seq == 9
        assert keys.find_key(c, WAITING) == b"\x01" * 40
        assert values.find_value(c, WAITING, "f" * 64).bytes == 70000
        assert settings.read(c, "public") == "on"
        assert queues.get_queue(c, "slow").concurrency == 2
        usage = "SELECT model, input_tokens, output_tokens, finish FROM usage"
        assert c.execute(text(usage)).all() == [("m-1", 7, 3, "tool_calls")]

    await store.read(read)


async def test_its_runs_go_on(store: SqliteStore) -> None:
    (wait,) = await store.read(lambda c: waits.list_waits(c, run=WAITING))
    answer = {"data": {}, "approved": True}
    assert await store.write(lambda c: waits.complete_wait(c, wait.id, value=answer, now=40.0))
    epoch = await store.write(lambda c: runs.claim(c, WAITING, 41.0))
    note = NewEntry("note.log", None, {"text": "on"})
    (seq,) = await store.write(lambda c: append(c, WAITING, epoch, [note], 42.0))
    assert seq == Seq(await store.read(lambda c: runs.get_run(c, WAITING).last_seq))


@pytest.mark.parametrize("version", [5])
async def test_runs_from_before_the_way_out_go_on(store: SqliteStore) -> None:
    run, fork = map(RunId, ("run_1m8gnaggwhsgcf13", "run_1m8gnbdshp6yjymn"))
    call = "model:/v1/chat/completions@58f7247d#1"

    def read(c: Connection) -> None:
        for each in (run, fork):
            row = runs.get_run(c, each)
            assert row.state == RunState.SUSPENDED and row.engine == "process"
            agent = agents.find_agent(c, row.version)
            assert agent is not None and "egress" not in agent.spec
            assert agent.rules.budget == Budget()
            ended = [row["op"] for row in journal(c, each, 0) if "ok" in row]
            assert ended == [call, "step:pay#1"]
        used = spent.spent(c, run)
        assert (used.requests, used.tokens, used.bytes_out) == (1, 62, 0)
        assert spent.spent(c, fork).requests == 0

    await store.read(read)

    def go_on(c: Connection) -> None:
        for wait in waits.list_waits(c):
            value = {"status": "completed", "data": None, "approved": True}
            assert waits.complete_wait(c, wait.id, value=value, now=9e9)
        for each in (run, fork):
            assert runs.claim(c, each, 9e9)

    await store.write(go_on)
