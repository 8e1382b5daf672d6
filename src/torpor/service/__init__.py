"""The surface of a deployment, which API, dashboard and public pages use: a Protocol a resource,
and the shapes of its replies. `torpor.control.service` is the real one, `torpor.testing.fakes` has
one in memory; one suite runs against both.

service     all resources beside each other; health, totals, the end
shapes      how replies are built
agents      agents and their versions
runs        runs: started, found, forked, ended
logs        their logs, and what they printed
waits       waits, and the public links to them
events      events sent to runs
hooks       webhooks
keys        API keys and tokens
secrets     secrets of agents
queues      queues
schedules   schedules
storage     snapshots, garbage, backups, retention
files       files of runs, artifacts
execs       commands beside an agent
queries     SQL, and saved queries
egress      what agents may reach, and what they asked for
"""
