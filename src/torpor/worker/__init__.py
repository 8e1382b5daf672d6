"""What one host does for runs: drivers, and what carries their agents.

It writes a run's log under the run's epoch (rule 4).

driver         one running run for one epoch: the life of what carries its agent
parts          what a driver is made of
interpreting   what a message from the agent means: pure, from messages to effects
receiving      what comes from the agent, interpreted and carried out
freezing       suspending a run, and checkpoints
handover       that a run is handed over to the next driver
lease          a worker's hold on the runs that it carries
pen            how a driver writes to its run's log: fenced, never in part
standing       what the agent has requested and not got yet, and how much it waits
stillness      having an agent stand still
recording      where in the log a snapshot stands, and what is recorded with it
obstacles      what of its host keeps a run from going on
computing      how long a run computes
cancelling     a run's cancellation
calls          recorded exchanges: model calls, above all
answers        their answers, as they come
serving        recorded answers that are too large for the log, to the guest again
listening      runs that sleep under them, and what wakes these
costs          what a freeze and a resume take
network        all other exchanges, and connections
way            what both need, to the broker and back
values         results that are too large for the log
notes          notes that a recovered agent repeats
output         output that a recovered agent repeats
printed        what the log holds of an output stream, to compare with
beside         what agents print beyond what their logs take
verdicts       what is done about a divergence
retrying       runs that are tried again by themselves
commands       commands beside an agent
carrier        what carries an agent, as its driver sees it
onmachines     machines as carriers
onprocesses    plain processes as carriers
processguest   the channel to an agent that is a plain process
spares         processes that wait for an agent
templates      an agent's version becomes a template
bases          machines that are no agent's yet, upon which templates are made
loading        from an agent's files to what they offer
runfiles       files of runs on their way to where an agent begins
sealing        the keys that snapshots are sealed with
authorities    the certificate authorities that machines trust
tasks          tasks of one owner
metrics        what the server counts and measures
"""
