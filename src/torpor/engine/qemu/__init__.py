"""The engine `qemu`.

command.py   the exact command line: a pure function of Shape and Files
host.py      what it needs of the host, and how it is opened there (`torpor.engine.host`)
launch.py    what stands between fork and QEMU: dies with its parent, no huge pages
machine.py   one running QEMU: monitor, link, pause, load, kill
engine.py    the engine: boots machines, prepares empty ones
probe.py     which QEMU and which accelerator work on this host
"""

NAME = "qemu"
