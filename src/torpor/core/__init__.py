"""The nouns everything else speaks of. Standard library only, no I/O, Python >= 3.9 (the guest
imports parts of it).

ids           ids: a type for each kind of thing
states        a run's life, as a table
errors        errors, split by who must act
home          the data directory
workers       who carries runs, and what a lease on a run tells another worker
clock         the time, as the server's parts are given it
limits        how long a server waits, how often it tries again, how much it takes on
agentfile     an agent as it travels: its files, and what is known of it before it runs
rules         how an agent's runs are treated, as its file says
defining      whether files may define an agent at all
imports       which modules an agent imports first
origins       where an agent comes from
layout        where things are in an agent's directory that its author did not put there
inputs        whether an input fits an agent
schemas       JSON Schemas, in words and for what is typed
jsonvalues    which JSON values get through every door
starting      how a run is to be started
schedules     the settings of a schedule
children      what a child that did not complete leaves to its parent
divergence    what an agent's file says about divergences
doubts        what a person may say of a step in doubt
placements    where a secret goes in a request
permissions   what a person may allow an agent, bound to the exact action
position      where an agent stood when it was frozen
environment   environment variables of agents and runs
keyformats    keys of known kinds, told by their form
runfiles      files that a run is given: where, and how large
artifacts     files that a run publishes
execs         commands beside an agent, as frames of a stream
webhooks      whom an agent's waits may tell of themselves
egress        what an agent may reach: rules, and what they say of a request
presets       rules for known services
reach         what a version may reach beyond another
hostnames     names of hosts and patterns for them
targets       methods, targets, patterns for paths
amounts       what budgets limit, as people write it
charges       what a model's call takes at most, from its request
secrets       secrets of agents: whom they serve, and where they stand in a request
refusals      what a model's client gets where torpor answers instead
bodies        where the body of a recorded answer is, if it is too large for the log
replies       what a model's answer says, whole or as it comes
dialects      the protocols that models answer in
pieces        the JSON objects in the bytes of an answer
prices        what models cost
keep          how long snapshots are kept
retention     how long ended runs are kept
access        scopes and grants
paging        a part of a log, bounded in entries and bytes
durations     durations as people write them
sizes         sizes as people write them
memory        what torpor's own processes may keep of memory
checks        what was found of a host, for a report
release       which torpor a server is
"""
