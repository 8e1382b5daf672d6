"""What machines start from: kernel, root file system, initramfs, dependency layers.

recipe      what is in the root file system: constants, and the script that makes it
build       recipe → root → image (`ensure_image`)
kernel      which kernel modules, in which order
pageindex   the index of an image's pages, which snapshots are compared with
kernelmem   the kernel as it lies in a machine's memory
initramfs   the archive that the kernel unpacks first, and the init that mounts everything
bytecode    Python files of the guest, compiled beforehand
deps        an agent's dependencies: a layer for machines (`ensure_deps`), a directory for processes
publish     how a directory appears at once, whole and durable, or not at all
intact      whether what was built is as it was built
tools       running the programs that do the work
__main__    `python -m torpor.image`: build it and print where it is

A root (a minute to make, seldom changes) and an image (an instant to make, changes with the
guest's own code) are cached apart. An image is named by the content of what is in it, not by
its recipe: Debian moves, and a snapshot that refers to blocks of one root must never be read
against another. Nothing of an agent is ever run on the host here, and nothing that comes with
its dependencies either.
"""
