"""Measurements of torpor on the host it runs on, for `torpor bench`.

sleep         how fast an agent falls asleep and wakes, by the real service, from its own log
asleep        the agent that does
deploy        what it takes until an edited agent can run
waits         how soon the one who was answered goes on, while others still wait
manywaits     the agent that waits
snapshots     what snapshots cost, from single steps to the whole store
chores        the agent that is frozen for that
bars          figures of snapshots beside a peer's, their bars and what bounds them
throughput    bytes a second into a snapshot and out of one
sealing       what encrypting snapshots costs
peer          freezing and resuming the same guest by QEMU's own migration
control       what the control plane costs, by itself and with many runs asleep
controlbars   its figures beside their bars
large         the agent that is frozen whole: much that does not compress
egress        what the way out costs, without machines and from one
egressbars    its figures beside a peer's and bars
guests        guests without machines, and the same requests without torpor
origin        the server that is asked
mitm          the peer: mitmproxy
reaching      the agent that asks
footprint     what torpor's own processes take of memory and processor
journal       what durable steps cost, and whether they hold
journalbars   its figures beside their peers and bars
durable       the peer: the same steps under dbos
working       agents that do next to nothing, durably
computing     what computing costs in a machine, beside the host
mixed         the load that computes
query         what SQL questions take on a long log
saving        how soon `torpor dev` shows what was saved
start         how soon a command of the command line is there
stage         the service that is measured, on a data directory of its own
stats         samples into p50, p90, maximum and ratios
cold          making files cold

Agents that are measured run in machines and are never imported here.
"""
