"""The store: durability, atomicity, trouble, notification."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select, text

from torpor.contextlog import schema
from torpor.contextlog.agents import NewAgent, put_agent
from torpor.contextlog.entries import NewEntry, append, read_entries
from torpor.contextlog.runs import create_run
from torpor.core.errors import Damaged, Exhausted, HostError, InternalError
from torpor.core.ids import AgentVersion, RunId
from torpor.logstore.sqlite import SqliteStore

pytestmark = pytest.mark.anyio

VERSION = AgentVersion("a" * 32)


def make_run(c: Connection) -> RunId:
    put_agent(
        c,
        NewAgent(engine="qemu", version=VERSION, name="a", entry="a.py", source=b"", spec={}),
        1.0,
    )
    return create_run(c, version=VERSION, agent=None, input={}, now=1.0).id


def log(run: RunId, what: str) -> Callable[[Connection], list[Any]]:
    return lambda c: list(append(c, run, None, [NewEntry("note.log", None, {"text": what})], 2.0))


def texts(run: RunId) -> Callable[[Connection], list[str]]:
    return lambda c: [e.data["text"] for e in read_entries(c, run, kinds=["note.log"])]


async def test_a_failing_write_is_rolled_back_alone(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)

    def fails(c: Connection) -> None:
        log(run, "lost")(c)
        raise LookupError("on purpose")

    # All are queued before the loop runs on, so the writer may well take them as one batch.
    done = await asyncio.gather(
        *(store.write(log(run, f"{i}") if i % 3 else fails) for i in range(30)),
        return_exceptions=True,
    )
    assert [isinstance(d, LookupError) for d in done] == [i % 3 == 0 for i in range(30)]
    assert await store.read(texts(run)) == [f"{i}" for i in range(30) if i % 3]
    store.close()


async def test_what_no_future_can_hold_is_answered_too(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    with pytest.raises(InternalError, match="a write raised StopIteration"):
        await store.write(lambda c: next(iter(())))
    store.close()


async def test_queued_writes_share_a_transaction(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    seen: list[int] = []

    def look(c: Connection) -> None:
        log(run, "x")(c)
        seen.append(other.execute("SELECT count(*) FROM entries").fetchone()[0])

    other = sqlite3.connect(store.path, check_same_thread=False)
    before = other.execute("SELECT count(*) FROM entries").fetchone()[0]
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hold(c: Connection) -> None:
        # The writer is busy until the others are queued, so they make one batch.
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    writes = [asyncio.create_task(store.write(fn)) for fn in (hold, look, look, look)]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes)
    assert seen == [before] * 3  # none of the three was committed before the others
    assert other.execute("SELECT count(*) FROM entries").fetchone()[0] == before + 3
    other.close()
    store.close()


async def test_a_write_cancelled_in_the_queue_does_not_happen(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    entered = asyncio.Event()

    def hold(c: Connection) -> None:
        loop.call_soon_threadsafe(entered.set)
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result()

    holding = asyncio.create_task(store.write(hold))
    await entered.wait()
    dropped = asyncio.create_task(store.write(log(run, "dropped")))
    await asyncio.sleep(0)
    dropped.cancel()
    await asyncio.gather(dropped, return_exceptions=True)
    gate.set()
    await holding
    await store.write(log(run, "kept"))
    assert await store.read(texts(run)) == ["kept"]
    store.close()


@pytest.mark.parametrize("verb", ["UPDATE entries SET kind = 'x'", "DELETE FROM entries"])
async def test_entries_refuse_change(tmp_path: Path, verb: str) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    await store.write(log(run, "stays"))
    with pytest.raises(Exception, match="append-only"):
        await store.write(lambda c: c.execute(text(verb)))
    store.close()
    # Not only through us: any tool that opens the file is refused.
    other = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        other.execute(verb)
    assert other.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    other.close()


async def test_readers_cannot_write_and_see_one_moment(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    with pytest.raises(HostError, match="readonly"):
        await store.read(log(run, "x"))
    loop = asyncio.get_running_loop()

    def twice(c: Connection) -> tuple[int, int]:
        count = select(func.count()).select_from(schema.entries)
        first = c.scalar(count)
        asyncio.run_coroutine_threadsafe(store.write(log(run, "y")), loop).result()
        second = c.scalar(count)
        assert first is not None and second is not None
        return first, second

    first, second = await store.read(twice)
    assert first == second
    assert await store.read(texts(run)) == ["y"]
    store.close()


async def test_a_full_disk_fails_the_batch_and_leaves_the_store_usable(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)

    def limit(pages: int) -> Callable[[Connection], None]:
        return lambda c: c.exec_driver_sql(f"PRAGMA max_page_count = {pages}").close()

    pages = await store.read(lambda c: c.exec_driver_sql("PRAGMA page_count").scalar())
    assert isinstance(pages, int)
    await store.write(limit(pages + 2))
    with pytest.raises(Exhausted, match="full") as refused:
        await store.write(log(run, "x" * 500_000))
    assert refused.value.hint
    assert await store.read(texts(run)) == []
    await store.write(limit(1_000_000))
    await store.write(log(run, "fits"))
    assert await store.read(texts(run)) == ["fits"]
    assert await store.read(lambda c: c.exec_driver_sql("PRAGMA integrity_check").scalar()) == "ok"
    store.close()


async def test_a_write_that_ends_the_transaction_fails_its_batch(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)

    def breaks(c: Connection) -> None:
        log(run, "lost")(c)
        c.exec_driver_sql("ROLLBACK")

    with pytest.raises(InternalError, match="ended the transaction"):
        await store.write(breaks)
    await store.write(log(run, "kept"))
    assert await store.read(texts(run)) == ["kept"]
    store.close()


async def test_subscribers_hear_of_committed_writes_to_their_run_only(tmp_path: Path) -> None:
    def fails(c: Connection) -> None:
        log(run, "lost")(c)
        raise LookupError("on purpose")

    store = SqliteStore.open(tmp_path / "torpor.db")
    run, other = await store.write(make_run), await store.write(make_run)
    with store.subscribe(run) as mine, store.subscribe(other) as theirs:
        await store.write(log(run, "one"))  # before anyone waits: remembered
        await asyncio.wait_for(mine.wait(), 10)
        waiting = asyncio.create_task(mine.wait())
        with pytest.raises(LookupError):
            await store.write(fails)
        await store.write(log(other, "theirs"))
        await asyncio.wait_for(theirs.wait(), 10)
        assert not waiting.done()
        await store.write(log(run, "two"))
        await asyncio.wait_for(waiting, 10)
    await store.write(log(run, "nobody listens"))
    assert store._feed._subscriptions == {}
    store.close()


async def test_closing_finishes_queued_writes_and_refuses_later_ones(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    writes = [asyncio.create_task(store.write(log(run, f"{i}"))) for i in range(5)]
    await asyncio.sleep(0)
    store.close()
    store.close()
    assert len(await asyncio.gather(*writes)) == 5
    with pytest.raises(InternalError):
        await store.write(log(run, "late"))
    reopened = SqliteStore.open(store.path)
    assert await reopened.read(texts(run)) == list("01234")
    reopened.close()


def test_a_newer_or_foreign_database_is_refused_untouched(tmp_path: Path) -> None:
    newer = tmp_path / "newer.db"
    SqliteStore.open(newer).close()
    with sqlite3.connect(newer) as c:
        c.execute("UPDATE meta SET value = '999'")
    c.close()
    older = tmp_path / "older.db"
    SqliteStore.open(older).close()
    with sqlite3.connect(older) as c:
        c.execute("UPDATE meta SET value = '1' WHERE key = 'schema_version'")
    c.close()
    with pytest.raises(HostError, match="early development version of torpor"):
        SqliteStore.open(older)
    with pytest.raises(HostError, match="newer torpor") as refused:
        SqliteStore.open(newer)
    assert "Upgrade" in refused.value.hint

    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as c:
        c.execute("CREATE TABLE things (x)")
    c.close()
    with pytest.raises(Damaged, match="not torpor's"):
        SqliteStore.open(foreign)
    with sqlite3.connect(foreign) as c:
        assert c.execute("SELECT name FROM sqlite_master").fetchall() == [("things",)]
    c.close()

    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all " * 300)
    with pytest.raises(Damaged, match="not a database"):
        SqliteStore.open(garbage)
    with pytest.raises(HostError, match="unable to open"):
        SqliteStore.open(tmp_path / "absent" / "torpor.db")


async def test_foreign_keys_hold(tmp_path: Path) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    entry = {"run": "run_none", "seq": 1, "at": 1.0, "kind": "note.log", "data": {}}
    with pytest.raises(Exception, match="FOREIGN KEY"):
        await store.write(lambda c: c.execute(insert(schema.entries), [entry]))
    store.close()


_WRITES_FOR_EVER = """
import asyncio, sys
from pathlib import Path
from torpor.contextlog.entries import NewEntry, append
from torpor.logstore.sqlite import SqliteStore

async def writer(store, run):
    while True:
        entry = NewEntry("note.log", None, {"text": "x" * 300})
        (seq,) = await store.write(lambda c: append(c, run, None, [entry], 2.0))
        sys.stdout.write(f"{seq}\\n")
        sys.stdout.flush()

async def main():
    store = SqliteStore.open(Path(sys.argv[1]))
    await asyncio.gather(*(writer(store, sys.argv[2]) for _ in range(8)))

asyncio.run(main())
"""


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "torpor.db"
    store = SqliteStore.open(path)
    run = asyncio.run(store.write(make_run))
    store.close()
    for _ in range(2):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITES_FOR_EVER, str(path), run],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            acknowledged = [int(process.stdout.readline()) for _ in range(100)]
            os.kill(process.pid, signal.SIGKILL)
            # What it said before it died; its last line may be cut short.
            rest = process.stdout.read().split("\n")
            acknowledged += map(int, rest[:-1])
        store = SqliteStore.open(path)
        held = [e.seq for e in asyncio.run(store.read(lambda c: read_entries(c, run, limit=10**6)))]
        store.close()
        assert set(acknowledged) <= set(held)
        assert held == list(range(1, len(held) + 1))
