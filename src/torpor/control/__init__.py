"""The only writer of run state. What happens to a run is decided and done here.

service.py     what people can ask for: the API calls nothing else
scheduler.py   claims runs, wakes timers, recovers what was lost
driver.py      one task per running machine: hears it, freezes it, ends it
templates.py   an agent's version becomes a frozen machine that has loaded it
machines.py    machines on this host: start, restore, capture, discard; no run, no log
keys.py        what runs' snapshots are sealed with
pool.py        machines that wait to be given a snapshot
warm.py        those that wait with their agent's template, its code translated
sparse.py      files as pages: a machine's disk, and what it holds
flat.py        what they stand on: the memory of templates as plain files
guest.py       the conversation with one machine's supervisor
model.py       the way to the model: the broker, started when it is not there
storage.py     what is kept of snapshots; verification and garbage collection
transfer.py    a run as one file, out and in; archive.py is the file itself
storage.py     what the disk holds: verifying, reclaiming, pinning snapshots
transfer.py    a run as one file: export, import
processes.py   the end of the processes beside the server
doctor.py      what this host can do
"""
