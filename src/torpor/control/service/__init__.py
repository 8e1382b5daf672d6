"""What people can ask of this deployment: `torpor.service`, implemented. A module a resource.

service     all of them put together, opened and closed
status      health, totals, what is measured
agents      agents: deployed, found, retired
runs        runs: started, listed, ended, continued as others
details     everything about one run
forking     forks, retries, reloads: which place is meant, and whether it makes sense
deleting    ended runs, deleted
transfers   runs as files
logs        what runs recorded and printed
waits       waits, and their answers
links       waits by their public links
tokens      the tokens of public links
events      events sent to runs
hooks       webhooks that others send
webhooks    webhooks that we send
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
