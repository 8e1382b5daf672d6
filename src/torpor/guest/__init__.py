"""The supervisor: the first process of a machine, between the host's link and the agent.

supervisor      the loop, and what each message does
settings        where things are, in a machine or beside one
boot            what the first process must set up
freshen         entropy and time after a thaw
port            the link over the channel to the host
agent           the agent's process: starting, talking, holding still
cgroup          what stands still with a machine, and the agent's memory limit
held            the words to a process that stands still
unpack          the agent's files, from a tar
runfiles        files that the host sends
exchanges       exchanges between gateway and host; recorded ones are operations
recorded        what the values of recorded ones answer
unasked         recorded model calls that a replay has not asked for again
commands        commands beside the agent
pumping         their pipes and terminals
trust           the certificate that clients in a machine trust
gatewayside     the supervisor's side of the gateway: starting it, carrying frames
pipe            what these two say to each other
__main__        the process

The gateway, through which the agent's connections go:

gateway         accepts them, and makes streams of what they ask
gatewayprocess  its process, in a machine
serving         what a connection means: HTTP, or bytes both ways
proxied         what clients say that follow proxy variables, where there is no machine
clients         the agent's end of a connection, with TLS or without
http1           HTTP/1.1 as a server reads and writes it
flows           streams: numbers, offsets, windows
places          names and their addresses, and which exchange is an operation
certificates    with which it ends clients' TLS
dns             a stub DNS server
closedports     what the kernel refuses, because nobody listens there
network         routes and listeners of a machine without a network device

Standard library only, one thread, and short paths: in a machine without hardware virtualization
a resume costs about what the code it runs for the first time costs, and a boot what it imports
(hence named tuples here: dataclasses would bring in half the compiler).
"""
