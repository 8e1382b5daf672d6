"""What machines start from: kernel, root file system, initramfs, dependency layers.

    recipe      what is in the root file system: constants and the script that makes it
    build       recipe → root → image (`ensure_image`)
    kernel      which kernel modules, in which order
    initramfs   the archive the kernel unpacks first, and the init that mounts everything
    deps        an agent's dependencies as a read-only layer (`ensure_deps`)
    publish     how a directory appears at once, whole and durable, or not at all
    tools       running the programs that do the work

A root (a minute to make, seldom changes) and an image (an instant to make, changes with the
guest's own code) are cached apart. An image is named by the content of what is in it, not by
its recipe: Debian moves, and a snapshot that refers to blocks of one root must never be read
against another. Nothing of an agent is ever run on the host here, and nothing that comes with
its dependencies either.
"""
