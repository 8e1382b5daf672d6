"""Where runs and their logs are stored: one writer, many readers, durable after each commit.

protocol     what a store does: `Store`
sqlite       the store on SQLite
commits      how writes share transactions: one thread, group commit
news         delivering what was written to who follows it
backup       what a copy of a database needs beside it
migrate      which version a database is of; bringing an older one up to date
migrations   the changes of the tables, for Alembic

It imports `torpor.contextlog`, which knows no store: the rules need a connection and nothing more,
while a store needs the tables (to create them) and what a write notes of itself (to deliver it).
"""
