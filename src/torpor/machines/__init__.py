"""One host's machines: start, restore, warm, capture, discard. Knows no run and no log.

host.py      the machines that there are, and what can be done to them
pool.py      empty machines that wait to be given a snapshot
warm.py      machines that wait with their agent's template, its code translated
flat.py      the memory of templates as plain files, which warm machines stand on
sparse.py    files as pages: a machine's disk, and what it holds
guest.py     the channel to one machine's supervisor
thaw.py      a restored machine gets entropy, time, identity and journal, and confirms (rule 8)
channel.py   the channel between a driver and what carries its agent: messages, nothing decided
capture.py   what one pause took of a machine (rule 7)
"""
