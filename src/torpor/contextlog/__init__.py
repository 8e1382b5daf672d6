"""Runs and their append-only context logs: what is true, durably.

The database is the one place where a run's state lives; whatever else knows of it (drivers,
machines, pages in a browser) is a reader or asks here. Which function is where:

    store      SqliteStore: open, write (group commit), read, subscribe, close
    runs       create_run, get_run, list_runs, runs_in, claimable, claim, transition,
               request_cancel, live_figures
    entries    append, read_entries, read_page, journal
    output     append_output
    waits      create_wait, get_wait, list_waits, complete_wait, answer_wait, cancel_waits,
               due_waits, end_due, next_due
    events     send_event, wait_for_event, deliver, read_events
    snapshots  record_snapshot, get_snapshot, newest_snapshot, list_snapshots, live_snapshots,
               set_pinned, reclaim
    lineage    which entries make up a run's log: a fork shares the beginning of its origin's
    forks      fork_run, fork_of, shared_end, failures, forks_of, family
    messages   what is sent to models, stored once by content
    calls      what is asked about model calls, as narrow rows
    agents     put_agent, deployed_again, set_template, get_agent, agent_source, list_agents
    deployments
               choose_current, current_of, list_current, retire
    keys       put_key, find_key, any_key, destroy_key, destroy_unused_keys
    settings   what the server remembers of its own
    access     keys for the API
    deletion   ended runs, removed whole
    transfer   a run's rows, out of this database and into another
    schema     the tables

All but the store's methods are plain functions over a SQLAlchemy `Connection`, so that any of
them can be one transaction: `await store.write(lambda c: (record_snapshot(c, …),
transition(c, …)))`. A function that raises has changed nothing.

Rules held here (numbers as in ARCHITECTURE.md):
 1  an entry is durable before a write is acknowledged; triggers refuse UPDATE and DELETE of it
 2  an operation has at most one beginning and one result (two unique indexes)
 4  a machine's writes name its epoch, and any but the newest, or one of an ended run, is refused
11  a wait ends once: whoever's UPDATE finds it open ends it, all others are told
13  entries are JSON objects of at most 1 MiB

The state of a run and its log never disagree, because they change together: `create_run`,
`claim`, `transition`, `record_snapshot`, `create_wait` and `complete_wait` append the entries
that tell of what they did. Callers append only what happens inside the machine.
"""
