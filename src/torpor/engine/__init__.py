"""How agents are run: one Protocol for machines, one package per engine.

registry       the engines that there are: names, capabilities, where their parts are
capabilities   what an engine can do, which is what the rest of torpor decides by
host           what an engine says of the host: what it needs, how it is opened
protocol       what an engine that freezes offers, and its machines
memory         pages of another process: which changed, and their bytes
cputime        CPU time of another process
resident       memory of another process
qemu           microVMs under QEMU, by KVM where a probe finds that it works, else by emulation
process        agents as plain processes
"""
