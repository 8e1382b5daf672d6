"""The database's migrations, for Alembic: one revision for each change of the tables.

env        what Alembic runs: the revisions, on the connection that it is given
versions   the revisions; the first has the tables as they were in version 3

How to change the tables:
1. Change `torpor.contextlog.schema`, which describes the newest version. A new database is created
   from it, without Alembic.
2. Add 1 to `torpor.logstore.migrate.SCHEMA_VERSION` and write `versions/vNNNN_what.py`, with
   `revision = "NNNN"` and `down_revision` the one before. It must leave the tables exactly as they
   are in the description: `tests/unit/logstore/test_migrate.py` compares the two.
3. Give a new column that may not be null a server default, in both places: then it is one
   `op.add_column`, which SQLite does at once, however large the table is.

All revisions that a database lacks run in one transaction, in which SQLite's foreign keys are off
(and checked at its end), so a table may be rebuilt (`op.batch_alter_table`). SQLite drops a table's
triggers with it, and refuses to rebuild one that a view reads: drop `log` and `log_ops` before, and
create them and the triggers of `entries` again. A revision names all that it needs itself and
imports nothing of torpor: what the code says of the tables changes, what a revision says must not.
There is no way back: nobody can write a downgrade that loses nothing; the way back is a backup.
"""
