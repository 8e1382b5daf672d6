"""One host's machines: start, restore, warm, capture, discard. Knows no run and no log.

host      the machines that there are, and what can be done to them
fit       whether a snapshot can be restored on this host
pool      empty machines that wait to be given a snapshot
warm      machines that wait with their agent's template, its code translated
flat      the memory of templates as plain files, which warm machines stand on
sparse    files as pages: a machine's disk, and what it holds
guest     the channel to one machine's supervisor
thaw      a restored machine gets entropy, time, identity and journal, and confirms (rule 8)
channel   the channel between a driver and what carries its agent: messages, nothing decided
capture   snapshots of machines: what one pause takes (rule 7), and its way into the store
live      what is known of a machine that exists: booted, lazy or warmed
"""
