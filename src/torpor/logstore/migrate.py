"""Which version a database is of: creating it, bringing an older one up to date, refusing others.

The version is in the database's table `meta`, where every torpor there ever was looks first;
Alembic's own table says the same, and both change in one transaction. A database that is up to date
is opened without importing Alembic, which takes longer than all the rest.

`torpor.logstore.migrations` says how to change the tables.
"""

from __future__ import annotations

from sqlalchemy import Column, Connection, MetaData, String, Table, insert, inspect, select, update
from sqlalchemy.exc import DBAPIError

from torpor.contextlog import schema
from torpor.core.errors import Damaged, HostError

SCHEMA_VERSION = 9
FIRST = 3  # a database of an earlier version is of torpor's development, and has no way from there

SCRIPTS = "torpor.logstore:migrations"

_meta = schema.meta
_alembic = Table("alembic_version", MetaData(), Column("version_num", String(32), primary_key=True))


def prepare(c: Connection) -> bool:
    """Create the tables in an empty database; whether this one is up to date, or has to be
    brought there by `upgrade`.

    Raises HostError for a database of a version that cannot be used, Damaged for one that is not
    torpor's.
    """
    present = inspect(c).get_table_names()
    if not present:
        _create(c)
        return True
    if _meta.name not in present:
        raise Damaged(
            "the database has tables that are not torpor's, or has lost its `meta` table",
            hint="Set TORPOR_HOME to another directory, or restore the database from a copy.",
        )
    version = _version(c)
    if version > SCHEMA_VERSION:
        raise HostError(
            f"the database was written by a newer torpor (schema {version}; "
            f"this one knows {SCHEMA_VERSION})",
            hint="Upgrade torpor.",
        )
    if version < FIRST:
        raise HostError(
            f"the database is from an early development version of torpor (schema {version}; "
            f"the oldest that can be upgraded is {FIRST})",
            hint="Move the data directory away, or set TORPOR_HOME to another one.",
        )
    if _alembic.name not in present:
        _stamp(c, version)
    return version == SCHEMA_VERSION


def upgrade(c: Connection) -> None:
    """Bring a database that `prepare` has seen up to date, in the transaction of `c`. Raises
    HostError: then nothing of it may be committed."""
    version = _version(c)
    try:
        run_revisions(c, SCHEMA_VERSION)
    except Exception as error:
        why = error.orig if isinstance(error, DBAPIError) else error
        raise HostError(
            f"the database could not be brought from schema {version} to {SCHEMA_VERSION}: {why}",
            hint="Nothing in it was changed. The torpor that wrote it can still open it: go back "
            "to that one, or mend what the message says and start again.",
        ) from error
    c.execute(
        update(_meta).where(_meta.c.key == "schema_version").values(value=str(SCHEMA_VERSION))
    )


def run_revisions(c: Connection, version: int) -> None:
    """Bring the tables from where Alembic says they are to `version`."""
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": c})
    config.set_main_option("script_location", SCRIPTS)
    command.upgrade(config, _revision(version))


def _create(c: Connection) -> None:
    schema.metadata.create_all(c)
    c.execute(insert(_meta), [{"key": "schema_version", "value": str(SCHEMA_VERSION)}])
    _stamp(c, SCHEMA_VERSION)


def _stamp(c: Connection, version: int) -> None:
    """Say to Alembic which revision the tables are of."""
    _alembic.create(c)
    c.execute(insert(_alembic), [{"version_num": _revision(version)}])


def _version(c: Connection) -> int:
    found = c.scalar(select(_meta.c.value).where(_meta.c.key == "schema_version"))
    if found is None or not found.isdecimal():
        raise Damaged(f"the database's schema version is {found!r}, which is not a number")
    return int(found)


def _revision(version: int) -> str:
    return f"{version:04}"
