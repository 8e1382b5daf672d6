"""What the store on SQLite does besides what every store does: trouble, refusals, the file."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.unit.logstore.conftest import log, make_run, texts

from torpor.contextlog.entries import read_entries
from torpor.core.errors import Damaged, Exhausted, HostError
from torpor.logstore.sqlite import SqliteStore

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("verb", ["UPDATE entries SET kind = 'x'", "DELETE FROM entries"])
async def test_entries_refuse_change_by_any_program(tmp_path: Path, verb: str) -> None:
    store = SqliteStore.open(tmp_path / "torpor.db")
    run = await store.write(make_run)
    await store.write(log(run, "stays"))
    store.close()
    other = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.DatabaseError, match="append-only"):
        other.execute(verb)
    assert other.execute("SELECT count(*) FROM entries").fetchone() == (2,)
    other.close()


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
