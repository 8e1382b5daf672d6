"""The engine `qemu`.

command   the exact command line: a pure function of Shape and Files
host      what it needs of the host, and how it is opened there (`torpor.engine.host`)
launch    what stands between fork and QEMU: dies with its parent, no huge pages
machine   one running QEMU: monitor, link, pause, load, kill
reload    device state as a machine takes it that has run already
engine    the engine: boots machines, prepares empty ones
probe     which QEMU and which accelerator work on this host
"""

NAME = "qemu"
