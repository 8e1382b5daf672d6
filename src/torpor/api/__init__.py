"""The HTTP API: turns requests into calls of the service, and its errors into problem details.

It decides nothing.

app         everything put together
routing     what every module of endpoints begins with
status      health, totals, metrics, the end
agents      agents
runs        runs
logs        their logs and output, followed as they grow
transfers   runs as files
waits       waits
events      events sent to runs
storage     snapshots, garbage, backups, retention
files       files for runs
artifacts   what runs published
execs       commands beside agents
queries     SQL, and saved queries
egress      what agents may reach, and what they asked for
queues      queues
schedules   schedules
keys        API keys and tokens
secrets     secrets of agents
hooks       webhooks
access      who may ask for what
limits      how large a body may be
tags        ETags
release     every answer says which release it is from
reference   /docs
dashboard   the dashboard, on the socket and on a port of this host
public      what is shown on a public port
listening   that port
serving     how sockets are served
stopping    the server's way down
serverlog   how the server's own log is written
server      the process
__main__    its command line
"""
