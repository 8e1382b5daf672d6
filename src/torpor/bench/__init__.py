"""Measurements of torpor on the host it runs on, for `torpor bench`.

sleep.py    how fast an agent falls asleep and wakes, by the real service, from its own log
peer.py     the same of the same guest by QEMU's own migration to a file
sealing.py  what it costs that snapshots of runs are encrypted
stats.py    samples into p50, p90, max, and ratios
cold.py     making files cold
asleep.py   the agent that sleeps; runs in the machine, is never imported here
"""
