"""Agents as plain processes: no machine, no isolation, nothing that only Linux has.

agent     one agent's process, and the channels to it
command   a command beside it (`torpor exec`)
host      what it needs of the host: nothing (`torpor.engine.host`)
workdir   the directory that a run's process begins in
"""

NAME = "process"
