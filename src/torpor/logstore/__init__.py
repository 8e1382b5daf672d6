"""Where runs and their logs are stored: one writer, many readers, durable after each commit.

sqlite       the database file
migrate      which version a database is of; bringing an older one up to date
migrations   the changes of the tables, for Alembic
"""
