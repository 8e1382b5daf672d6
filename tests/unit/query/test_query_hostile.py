"""What a question can not do, whatever its SQL."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from tests.unit.query.conftest import PRICES, SECRET, Ask

from torpor.contextlog import schema
from torpor.core.errors import Exhausted, Invalid, TorporError
from torpor.core.ids import RunId
from torpor.query import ask as asking
from torpor.query import worker
from torpor.query.ask import Asking, Question, TookTooLong

Home = tuple[Path, RunId, RunId]

WRITES = (
    "DELETE FROM entries",
    "UPDATE runs SET state = 'failed'",
    "INSERT INTO run_keys VALUES ('r', x'00')",
    "INSERT INTO temp.runs(id) VALUES ('r')",
    "WITH gone AS (SELECT 1) DELETE FROM main.waits",
    "DROP VIEW temp.runs",
    "CREATE TABLE mine (a)",
    "CREATE TEMP TABLE mine AS SELECT * FROM log",
    "CREATE TEMP VIEW log AS SELECT * FROM main.run_keys",
    "CREATE TEMP TRIGGER t INSTEAD OF INSERT ON runs BEGIN SELECT 1; END",
    "ALTER TABLE entries RENAME TO gone",
    "VACUUM",
    "VACUUM INTO '{elsewhere}'",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "SAVEPOINT here",
    "COMMIT",
    "ROLLBACK",
)

REACHES = (
    "ATTACH '{elsewhere}' AS other",
    "ATTACH 'file:{path}?mode=rw' AS other",
    "DETACH main",
    "PRAGMA query_only = OFF",
    "PRAGMA query_only",
    "PRAGMA database_list",
    "PRAGMA temp_store_directory = '/tmp'",
    "PRAGMA journal_mode = DELETE",
    "PRAGMA writable_schema = ON",
    "PRAGMA trusted_schema = ON",
    "SELECT * FROM pragma_database_list",
    "SELECT * FROM pragma_table_info('run_keys')",
    "SELECT * FROM pragma_table_xinfo('runs')",
    "SELECT load_extension('{elsewhere}')",
    "SELECT load_extension('libc.so.6', 'system')",
    "SELECT readfile('/etc/passwd')",
    "SELECT writefile('{elsewhere}', 'x')",
    "SELECT edit('x', 'vi')",
    "SELECT fts3_tokenizer('simple')",
    "SELECT fts3_tokenizer('simple', x'0000000000000000')",
    "SELECT sqlite_compileoption_get(1) FROM sqlite_master",
    "SELECT * FROM dbstat",
    "SELECT * FROM sqlite_dbpage",
    "SELECT * FROM bytecode('SELECT 1')",
    "SELECT * FROM sqlite_stmt",
    "SELECT * FROM csv('/etc/passwd')",
    "SELECT * FROM fsdir('/')",
    "SELECT * FROM zipfile('x')",
)

SECRETS = (
    "SELECT * FROM run_keys",
    "SELECT * FROM main.run_keys",
    "SELECT wrapped FROM run_keys",
    "SELECT count(*) FROM run_keys",
    "SELECT 1 FROM run_keys",
    "SELECT rowid FROM run_keys",
    "SELECT EXISTS (SELECT 1 FROM run_keys WHERE hex(wrapped) LIKE '7%')",
    # A name of a view's is no way in: SQLite tells the authorizer the name of a subquery, too.
    "WITH log AS (SELECT * FROM main.run_keys) SELECT * FROM log",
    "WITH runs AS (SELECT wrapped AS id FROM main.run_keys) SELECT id FROM runs",
    "SELECT * FROM (SELECT * FROM run_keys) AS log",
    "SELECT (SELECT wrapped FROM run_keys LIMIT 1) FROM runs",
    "SELECT * FROM runs JOIN run_keys ON run_keys.run = runs.id",
    "SELECT * FROM runs NATURAL JOIN run_keys",
    "SELECT id FROM runs ORDER BY (SELECT wrapped FROM run_keys)",
    "SELECT id FROM runs UNION SELECT hex(wrapped) FROM run_keys",
    "SELECT id FROM runs WHERE id IN run_keys",
    "SELECT sum(length(id)) OVER (ORDER BY (SELECT wrapped FROM run_keys)) FROM runs",
    "VALUES ((SELECT wrapped FROM run_keys))",
    "EXPLAIN SELECT * FROM run_keys",
    "SELECT source FROM agents",
    "SELECT * FROM agents",
    "WITH log AS (SELECT source FROM main.agents) SELECT * FROM log",
    "SELECT * FROM meta",
    "SELECT * FROM main.entries",
    "SELECT id_key FROM main.runs",
    "WITH log AS (SELECT id_key FROM main.runs) SELECT * FROM log",
    "SELECT * FROM sqlite_master",
    "SELECT * FROM main.sqlite_schema",
    "SELECT * FROM sqlite_temp_master",
    "SELECT * FROM temp.sqlite_temp_schema",
    "SELECT tbl_name FROM sqlite_sequence",
)

NONSENSE = (
    "",
    ";",
    "-- nothing",
    "SELECT",
    "SELECT 1; SELECT 2",
    "SELECT 1; DROP TABLE runs",
    "SELECT * FROM nowhere",
    "SELECT nowhere FROM runs",
    "SELECT ?",
    "SELECT :name",
    "SELECT '\0'",
    "SELECT json_extract('{', '$.a')",
    "SELECT abs(-9223372036854775808)",
    "select " + "(" * 5000 + "1" + ")" * 4999,
    "SELECT " + "+".join("1" * 3000),
    "SELECT " + " UNION ALL SELECT ".join("1" * 500),
    "SELECT " + ",".join("1" * 500),
)


def refused(ask: Ask, sql: str) -> TorporError:
    with pytest.raises(Invalid) as caught:
        ask(sql)
    told = f"{caught.value.message} {caught.value.hint}"
    assert "Traceback" not in told and SECRET.encode().hex() not in told.lower()
    return caught.value


@pytest.mark.parametrize("sql", [*WRITES, *REACHES], ids=str)
def test_nothing_is_written_and_nothing_else_is_reached(
    sql: str, ask: Ask, home: Home, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    before = sorted(home[0].parent.iterdir()), Path("/etc/passwd").stat().st_mtime
    refused(ask, sql.format(elsewhere=elsewhere, path=home[0]))
    assert not elsewhere.exists()
    assert (sorted(home[0].parent.iterdir()), Path("/etc/passwd").stat().st_mtime) == before
    assert ask("SELECT count(*) FROM runs").rows == [[2]]


@pytest.mark.parametrize("sql", SECRETS, ids=str)
def test_what_no_view_shows_is_not_shown(sql: str, ask: Ask) -> None:
    refused(ask, sql)


@pytest.mark.parametrize("sql", NONSENSE, ids=lambda sql: sql[:40])
def test_nonsense_is_told_from_what_works(sql: str, ask: Ask) -> None:
    assert refused(ask, sql).message


def test_of_the_tables_just_what_the_views_need_can_be_read(home: Home) -> None:
    """A column that somebody adds is not to be read before a view has it."""
    c = worker.connect(str(home[0]), PRICES, time.monotonic() + 60)
    readable = set()
    for table in schema.metadata.tables.values():
        for column in table.c:
            # The name of a view gets past the first look: it is the column that counts.
            sql = f'WITH log AS (SELECT "{column.name}" FROM main.{table.name}) SELECT * FROM log'
            try:
                c.execute(sql)
                readable.add((table.name, column.name))
            except sqlite3.DatabaseError:
                pass
    tables = {table for table, _ in readable}
    assert not tables & {"meta", "run_keys", "large_values"}
    # Nothing of an agent's source, of its environment or of its webhooks.
    assert {name for table, name in readable if table == "agents"} == {"version", "budget"}
    assert ("runs", "id") in readable and ("entries", "data") in readable
    assert ("runs", "id_key") not in readable and ("snapshots", "manifest") not in readable
    c.close()


BOMBS = (
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n",
    "SELECT count(*) FROM log a, log b, log c, log d, log e, log f, log g",
)


@pytest.mark.parametrize("sql", BOMBS, ids=str)
def test_what_does_not_end_is_ended(sql: str, ask: Ask) -> None:
    with pytest.raises(TookTooLong, match=r"longer than 0\.3 s"):
        ask(sql, timeout_s=0.3)


def test_what_does_not_even_look_at_the_clock_is_killed(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One function call of SQLite's can take hours, and nothing inside can end it."""
    monkeypatch.setattr(asking, "_WORKER_START_S", 1.0)
    monkeypatch.setattr(asking, "_GRACE_S", 0.1)
    slow = "SELECT instr(hex(zeroblob(8000000)), hex(zeroblob(4000000)) || '1')"
    with pytest.raises(TookTooLong):
        ask(slow, timeout_s=0.2)


GLUTTONS = (
    "SELECT hex(zeroblob(1000000000))",
    "SELECT replace(hex(zeroblob(1000000)), '0', hex(zeroblob(1000)))",
    "WITH RECURSIVE n(i, t) AS (SELECT 1, 'x' UNION ALL SELECT i + 1, t || t FROM n) "
    "SELECT length(t) FROM n LIMIT 100",
)


@pytest.mark.parametrize("sql", GLUTTONS, ids=str)
def test_huge_values_are_refused(sql: str, ask: Ask) -> None:
    assert "too big" in refused(ask, sql).message


def test_memory_has_an_end(ask: Ask) -> None:
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) "
        "SELECT group_concat(t) OVER () "
        "FROM (SELECT i, hex(randomblob(8000000)) t FROM n ORDER BY t)"
    )
    with pytest.raises((Exhausted, TookTooLong, Invalid)):
        ask(sql, timeout_s=20)


def test_much_to_tell_is_cut_and_said_so(ask: Ask) -> None:
    sql = (
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i, hex(zeroblob(500000)) FROM n"
    )
    answer = ask(sql)
    assert answer.more and 1 < len(answer.rows) < 20


def test_a_place_is_taken_by_few_and_the_loop_goes_on(home: Home) -> None:
    async def main() -> int:
        asks = Asking(home[0])
        bomb = Question(BOMBS[0], timeout_s=0.5)
        bombs = [asyncio.create_task(asks.ask(bomb, PRICES)) for _ in range(3)]
        turns = 0
        while not all(task.done() for task in bombs):
            await asyncio.sleep(0.01)  # the loop's own turn
            turns += 1
        for task in bombs:
            assert isinstance(task.exception(), TookTooLong)
        asks._waiting = asking.WAITING_MAX
        with pytest.raises(Exhausted, match="are waiting already"):
            await asks.ask(bomb, PRICES)
        return turns

    assert asyncio.run(main()) > 20


def test_a_question_that_is_given_up_leaves_no_process(home: Home) -> None:
    async def main() -> None:
        asks = Asking(home[0])
        task = asyncio.create_task(asks.ask(Question(BOMBS[0], timeout_s=30), PRICES))
        for _ in range(1000):
            if children():
                break
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asks._waiting == 0 and not asks._places.locked()

    def children() -> str:
        return subprocess.run(
            ["pgrep", "-f", "torpor.query.worker", "-P", str(os.getpid())],
            capture_output=True,
            text=True,
            check=False,
        ).stdout

    asyncio.run(main())
    assert not children()


def test_the_process_has_nothing_of_ours(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment (keys are there), and no file of its own: its limits are the kernel's."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    script = (
        "import json, os, sys; from torpor.query import worker; worker._confine(1); "
        "import resource; print(json.dumps([dict(os.environ).get('OPENAI_API_KEY'), "
        "resource.getrlimit(resource.RLIMIT_FSIZE)[0]]))"
    )
    monkeypatch.setattr(asking, "_COMMAND", [asking._COMMAND[0], "-I", "-c", script])

    async def main() -> bytes:
        process = await asyncio.create_subprocess_exec(
            *asking._COMMAND, stdout=asyncio.subprocess.PIPE, env={}
        )
        return (await process.communicate())[0]

    assert json.loads(asyncio.run(main())) == [None, 0]
