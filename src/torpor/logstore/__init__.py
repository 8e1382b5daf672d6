"""Where runs and their logs are stored: one writer, many readers, durable after each commit.

sqlite.py   the database file
"""
