"""How a machine is run. One Protocol (`protocol.py`), one package per engine.

`qemu/` runs microVMs under QEMU, by KVM where a probe finds that it works, else by emulation.
`process/` is none of these: it starts agents as plain processes.
"""
