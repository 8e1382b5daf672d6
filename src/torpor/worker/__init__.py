"""What one host does for runs: drivers, and what carries their agents.

It writes a run's log under the run's epoch (rule 4).

driver.py        one running run for one epoch: the life of what carries its agent
parts.py         what a driver is made of
interpreting.py  what a message from the agent means: pure, from messages to effects
receiving.py     what comes from the agent, interpreted and carried out
freezing.py      suspending a run, and checkpoints
handover.py      that a run is handed over to the next driver
pen.py           how a driver writes to its run's log: fenced, never in part
standing.py      what the agent has requested and not got yet, and how much it waits
stillness.py     having an agent stand still
recording.py     where in the log a snapshot stands, and what is recorded with it
obstacles.py     what of its host keeps a run from going on
computing.py     how long a run computes
cancelling.py    a run's cancellation
calls.py         model calls
values.py        results that are too large for the log
notes.py         notes that a recovered agent repeats
output.py        output that a recovered agent repeats
printed.py       what the log holds of an output stream, to compare with
beside.py        what agents print beyond what their logs take
verdicts.py      what is done about a divergence
retrying.py      runs that are tried again by themselves
commands.py      commands beside an agent
carrier.py       what carries an agent, as its driver sees it
onmachines.py    machines as carriers
onprocesses.py   plain processes as carriers
processguest.py  the channel to an agent that is a plain process
spares.py        processes that wait for an agent
templates.py     an agent's version becomes a template
bases.py         machines that are no agent's yet, upon which templates are made
loading.py       from an agent's files to what they offer
runfiles.py      files of runs on their way to where an agent begins
sealing.py       the keys that snapshots are sealed with
tasks.py         tasks of one owner
metrics.py       what the server counts and measures
"""
