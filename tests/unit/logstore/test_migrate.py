"""A database is created, brought up to date, or refused; a migration that fails changes nothing."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from tests.unit.logstore.described import described

from torpor.core.errors import HostError, InternalError
from torpor.logstore import migrate, migrations
from torpor.logstore.sqlite import SqliteStore, make_engine

NEXT = migrate.SCHEMA_VERSION + 1


@pytest.fixture
def empty() -> Iterator[Connection]:
    engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
    with engine.begin() as c:
        yield c
    engine.dispose()


def revisions() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", migrate.SCRIPTS)
    return ScriptDirectory.from_config(config)


def test_revisions_are_one_line_of_numbers_up_to_the_newest() -> None:
    numbers = [int(each.revision) for each in revisions().walk_revisions()]
    assert numbers == list(range(migrate.SCHEMA_VERSION, migrate.FIRST - 1, -1))


def test_migrations_alone_make_what_the_schema_describes(empty: Connection) -> None:
    migrate.run_revisions(empty, migrate.SCHEMA_VERSION)
    migrated = described(empty)
    engine = make_engine(Path(":memory:"), connections=1, begin="BEGIN")
    with engine.begin() as c:
        assert migrate.prepare(c)
        created = described(c)
    engine.dispose()
    assert set(created) > {"table runs", "view log", "trigger entries_refuse_update"}
    assert migrated == created


def test_a_database_of_before_migrations_is_stamped_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "torpor.db"
    SqliteStore.open(path).close()
    with sqlite3.connect(path) as c:
        c.execute("DROP TABLE alembic_version")
        before = c.execute("SELECT rootpage, sql FROM sqlite_master ORDER BY name").fetchall()
    SqliteStore.open(path).close()
    with sqlite3.connect(path) as c:
        assert c.execute("SELECT version_num FROM alembic_version").fetchall() == [
            (f"{migrate.SCHEMA_VERSION:04}",)
        ]
        c.execute("DROP TABLE alembic_version")
        assert c.execute("SELECT rootpage, sql FROM sqlite_master ORDER BY name").fetchall() == (
            before
        )
    c.close()


def test_what_is_up_to_date_is_opened_without_alembic(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from torpor.logstore.sqlite import SqliteStore\n"
        "for _ in range(2): SqliteStore.open(Path(sys.argv[1])).close()\n"
        "assert 'alembic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path / "torpor.db"], check=True)


class Older:
    """A database that lacks one revision, whose body a test writes."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = folder / "torpor.db"
        SqliteStore.open(self.path).close()
        with sqlite3.connect(self.path) as c:
            c.execute(
                "INSERT INTO agents (version, name, entry, source, spec, agents, first_at, used_at)"
                " VALUES ('v', 'a', 'a.py', x'00', '{}', '[]', 1.0, 1.0)"
            )
            c.execute(
                "INSERT INTO runs (id, version, engine, state, input, epoch, last_seq, created_at,"
                " ran_s, slept_s, state_since, out_offset, err_offset, queue, priority, env)"
                " VALUES ('run_1', 'v', 'qemu', 'queued', '{}', 0, 0, 1.0, 0, 0, 1.0, 0, 0, 'd', 0,"
                " '{}')"
            )
        c.close()
        assert migrations.__file__ is not None
        self.scripts = folder / "migrations"
        shutil.copytree(Path(migrations.__file__).parent, self.scripts)
        monkeypatch.setattr(migrate, "SCRIPTS", str(self.scripts))
        monkeypatch.setattr(migrate, "SCHEMA_VERSION", NEXT)

    def revision(self, *body: str) -> None:
        text = f"revision, down_revision = '{NEXT:04}', '{NEXT - 1:04}'\n"
        text += "import sqlalchemy as sa\nfrom alembic import op\ndef upgrade():\n"
        text += "\n".join(f"    {line}" for line in body)
        (self.scripts / "versions" / f"v{NEXT:04}_next.py").write_text(text + "\n")

    def dump(self) -> list[str]:
        with sqlite3.connect(self.path) as c:
            found = list(c.iterdump())
        c.close()
        return found


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Older:
    return Older(tmp_path, monkeypatch)


def test_an_older_one_is_brought_up_to_date_with_all_that_is_in_it(older: Older) -> None:
    older.revision(
        "op.add_column('runs', sa.Column('colour', sa.String(), server_default='blue'))",
        "with op.batch_alter_table('agents') as batch:",  # other tables refer to it
        "    batch.alter_column('entry', existing_type=sa.String(), nullable=True)",
    )
    for _ in range(2):
        SqliteStore.open(older.path).close()
    with sqlite3.connect(older.path) as c:
        assert c.execute("SELECT id, colour FROM runs").fetchall() == [("run_1", "blue")]
        assert c.execute("SELECT version FROM agents").fetchall() == [("v",)]
        versions = "SELECT value, version_num FROM meta, alembic_version WHERE key = ?"
        assert c.execute(versions, ["schema_version"]).fetchall() == [(str(NEXT), f"{NEXT:04}")]
        c.execute("PRAGMA foreign_keys = ON")
        with pytest.raises(sqlite3.IntegrityError):
            c.execute("DELETE FROM agents")
    c.close()


def test_a_migration_that_fails_changes_nothing_and_says_what_to_do(
    older: Older, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = older.dump()
    older.revision(
        "op.add_column('runs', sa.Column('colour', sa.String()))",
        "op.execute('DELETE FROM runs')",
        "op.execute('DROP TABLE meta')",
        "op.execute('SELECT * FROM absent')",
    )
    for _ in range(2):
        with pytest.raises(
            HostError, match=rf"schema {NEXT - 1} to {NEXT}: no such table"
        ) as error:
            SqliteStore.open(older.path)
        assert "Nothing in it was changed" in error.value.hint
        assert older.dump() == before
    monkeypatch.setattr(migrate, "SCHEMA_VERSION", NEXT - 1)
    SqliteStore.open(older.path).close()


def test_a_migration_that_leaves_rows_without_what_they_refer_to_is_refused(older: Older) -> None:
    before = older.dump()
    older.revision("op.execute('DELETE FROM agents')")
    with pytest.raises(InternalError, match="a row of runs lacks one of agents"):
        SqliteStore.open(older.path)
    assert older.dump() == before
