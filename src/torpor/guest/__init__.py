"""The supervisor: the first process of a machine, between the host's link and the agent.

supervisor   the loop, and what each message does
settings     where things are, in a machine or beside one
boot         what the first process must set up
freshen      entropy and time after a thaw
port         the link over the channel to the host
agent        the agent's process: starting, talking, holding still
cgroup       its memory limit, and freezing it
held         the words to a process that stands still
unpack       the agent's files, from a tar
runfiles     files that the host sends
gateway      the model endpoint that the agent's HTTP clients talk to
http1        its protocol
models       model calls as operations
unasked      recorded model calls that a replay has not asked for again
commands     commands beside the agent
pumping      their pipes and terminals
__main__     the process

Standard library only, one thread, and short paths: in a machine without hardware virtualization
a resume costs about what the code it runs for the first time costs, and a boot what it imports
(hence named tuples here: dataclasses would bring in half the compiler).
"""
