"""The supervisor: the first process of a machine, between the host's link and the agent.

    settings    where things are, in a machine or beside one
    boot        what the first process must set up
    supervisor  the loop, and what each message does
    agent       the agent's process: starting, talking, holding still
    cgroup      its limits and its freezing
    gateway     the model endpoint that the agent's HTTP clients talk to;  http1: the protocol
    models      model calls as operations
    port        the link over the channel to the host
    held        the words to a process that stands still
    freshen     entropy and time after a thaw
    unpack      the agent's files

Standard library only, one thread, and short paths: in a machine without hardware virtualization
a resume costs about what the code it runs for the first time costs, and a boot what it imports
(hence named tuples here: dataclasses would bring in half the compiler).
"""
