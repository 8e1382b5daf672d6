"""SQL over runs and their logs, read-only, for people: `torpor query`, POST /v1/query.

views      what may be asked about: the views and their columns, described (docs/sql.md)
parts      what views are made of
outgoing   views of what left machines
worker     the process in which one statement runs, and all that it may not do
ask        starts that process, and ends it when its time is up

A question is a process of its own. What somebody's SQL can do to it (take all its memory, never
end, crash it) it does to nobody else, and the server stays as responsive as the host is.
"""
