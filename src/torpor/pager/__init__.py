"""The pager: the process that serves the memory and the disks of snapshots as files, over FUSE.

One process per data directory. It mounts `run/mnt` and answers requests on `run/pager.sock`. A
*slot* is a directory `run/mnt/NAME` with two files of fixed size:

    NAME/memory   read only. Content is bound late: an engine process can have the file mapped
                  before anybody knows which snapshot it will run. Reads wait until then. The kernel
                  caches the pages, and the ones a restore is known to need are pushed into its
                  cache before `bind` is answered.
    NAME/disk     writable. What is written goes to a sparse overlay file, never to the snapshot,
                  and a bitmap tells which pages. Not cached by the kernel: the guest has a cache.

    create ──► empty ──bind──► bound ──drop──► gone (its files serve whoever holds them open)
                 └────────────drop─────────────┘

ranges     page ranges: `[start, count]` pairs
overlay    the written pages of a disk
content    a snapshot opened for reading
slots      the slots and their life
files      FUSE requests
control    requests of other processes
server     the process
client     how other processes ask it
launch     starting it, where none runs
__main__   `python -m torpor.pager`

Everything in the server that is not declared otherwise runs in one trio thread, so a slot's state
needs no locks. That thread never touches the mount: it would wait for itself.

Nothing the pager holds outlives it. If it dies, the machines on its files die too, and their runs
are recovered from their snapshots.
"""
