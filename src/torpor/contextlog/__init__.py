"""Runs and their append-only context logs: what is true, durably.

The database is the one place where a run's state lives; whatever else knows of it (drivers,
machines, pages in a browser) reads it or asks here. Which database it is only `torpor.logstore`
knows.

schema         the tables, as the newest version has them
calltables     those of what went out, and of model calls
columns        their columns' types
prepared       statements of the hot path, compiled once
runs           runs: created, listed, claimed, moved from state to state
leases         which worker carries a run, and until when
codecs         what an entry's data may be; how it is stored and read again
entries        entries of a run's log: appended and read; the journal of a replay
lineage        whose entries make up a run's log: a fork shares the beginning of its origin's
reading        where to begin reading a log of which not all is wanted
output         what agents print
messages       requests to models, and others that are recorded, stored once by content
calls          model calls as narrow rows
spent          what went out, and what that took: of a run, an agent, an API key
egress         what went out, and what was refused
conversation   a conversation, counted: what was sent, against all that was said
values         which values too large for the log a run has
artifacts      files that a run published, as its log has them
files          files that runs are given
waits          waits: created, listed, ended exactly once
permissions    for what a person's decision counts, and what has used it
events         events: sent by name, taken once
notices        messages that tell of an open wait
hooks          webhooks in
children       children of runs
forks          forks and retries
reloads        runs that go on as another version of their agent, as `torpor dev` has them do
upgrades       runs moved to another version while they wait
snapshots      records of snapshots
bases          records of machines that templates are made upon
agents         versions of agents that were deployed
deployments    what an agent's name means, and which version is current
queues         queues
schedules      schedules
deadlines      what time alone does to runs
keys           keys of snapshots, wrapped
authorities    certificate authorities that machines trust
access         API keys and tokens, as hashes
secrets        secrets of agents, sealed, and who changed them
settings       what the server remembers of its own
saved          SQL questions with a name
refs           rows by the beginning of their id
totals         how much of everything there is
news           what a write means to others, noted beside it
deletion       ended runs, removed whole
transfer       a run's rows, out of this database and into another

All are plain functions over a SQLAlchemy `Connection`, so that any of them can be one transaction:
`await store.write(lambda c: (record_snapshot(c, …), transition(c, …)))`. A function that raises has
changed nothing.

Rules held here (numbers as in ARCHITECTURE.md):
 1. An entry is durable before a write is acknowledged; triggers refuse UPDATE and DELETE of it
 2. An operation has at most one beginning and one result (two unique indexes)
 4. A machine's writes name its epoch, and any but the newest, or one of an ended run, is refused
11. A wait ends once: the UPDATE that finds it open ends it, every other one learns how it ended
13. Entries are JSON objects of at most 1 MiB

The state of a run and its log never disagree, because they change together: `create_run`,
`claim`, `transition`, `record_snapshot`, `create_wait` and `complete_wait` append the entries
that report what they did. Callers append only what happens inside the machine.
"""

from torpor.contextlog import calls, codecs, egress

codecs.register("op.begin", "model", calls.REQUEST)
codecs.register("op.begin", "http", calls.OTHER_REQUEST)
codecs.register("op.end", "model", calls.REPLY)
for _kind, _codec in egress.CODECS.items():
    codecs.register(_kind, "", _codec)
