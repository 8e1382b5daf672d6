"""How agents are run: one Protocol for machines, one package per engine.

registry.py       the engines that there are: names, capabilities, where their parts are
capabilities.py   what an engine can do, which is what the rest of torpor decides by
host.py           what an engine says of the host: what it needs, how it is opened
protocol.py       what an engine that freezes offers, and its machines
memory.py         pages of another process: which changed, and their bytes
cputime.py        CPU time of another process
qemu              microVMs under QEMU, by KVM where a probe finds that it works, else by emulation
process           agents as plain processes
"""
