"""Agents as plain processes: no machine, no isolation, nothing that only Linux has.

agent.py     one agent's process, and the channels to it
command.py   a command beside it (`torpor exec`)
host.py      what it needs of the host: nothing (`torpor.engine.host`)
workdir.py   the directory that a run's process begins in
"""

NAME = "process"
