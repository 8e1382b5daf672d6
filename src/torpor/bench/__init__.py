"""Measurements of torpor on the host it runs on, for `torpor bench`.

sleep.py       how fast an agent falls asleep and wakes, by the real service, from its own log
deploy.py      what it takes until an agent that was edited can be run
waits.py       how soon who was answered goes on, though others still wait
snapshots.py   what snapshots cost, from single steps to the whole store
bars.py        its figures, beside a peer's, their bars and what bounds them
throughput.py  bytes a second into a snapshot and out of one
peer.py        freezing and resuming the same guest by QEMU's own migration to a file
sealing.py     what it costs that snapshots of runs are encrypted
start.py       how soon a command of the command line is there
saving.py      how soon torpor dev shows what was saved
stage.py       the service that is measured, on a data directory of its own
stats.py       samples into p50, p90, max, and ratios
cold.py        making files cold
asleep.py      the agent of sleep.py, manywaits.py of waits.py, chores.py of snapshots.py: they
               run in the machine and are never imported here
"""
