"""The HTTP API: turns requests into calls of the service, and its errors into problem details.

It decides nothing. What comes in and goes out is described in `torpor.web.shapes`.

app         the endpoints, one line of the service each
access      who may ask for what: one table of routes, and where it is looked at
starting    requests that start runs
files       files for runs
artifacts   files that runs published
events      events that are sent to runs
execs       commands beside agents
deleting    ended runs, deleted; retention
upgrades    runs moved to other versions of their agents
reloads     runs that go on as edited agents (`torpor dev`)
queues      queues
schedules   schedules
hooks       webhooks in, and the secrets of those out
keys        API keys and tokens
query       SQL questions
queries     saved SQL questions
public      what a public port shows
dashboard   the dashboard on the server's socket and on a port of its own
reference   /docs: the API described for people
limits      how large a body may be
tags        ETags
release     every answer says which torpor it is from
serving     how sockets are served, by uvicorn
listening   a TCP port, where one was asked for
server      the server's process: one per data directory
stopping    the server's way down
logs        how the server's log is written
__main__    `python -m torpor.api`
"""
