"""Which kernel modules a machine needs, and the order to insert them in.

What a module depends on stands in the module itself (`depends=` in its .modinfo section); the
Debian package has no modules.dep, that is made by depmod on installation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from torpor.core.errors import HostError

# The transport, the disks, the link; root and overlay. ext4 and crc32c are built in.
MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "erofs", "overlay")

_DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")


def module_dependencies(module: bytes) -> tuple[str, ...]:
    """Names that a module file says it depends on. Raises HostError if it is no module."""
    if not module.startswith(b"\x7fELF") or (found := _DEPENDS.search(module)) is None:
        raise HostError("not an uncompressed kernel module: no ELF file with a `depends=` entry")
    return tuple(_name(name) for name in found.group(1).decode().split(",") if name)


def insertion_order(
    wanted: Sequence[str], dependencies: Callable[[str], Sequence[str]]
) -> tuple[str, ...]:
    """`wanted` and all they depend on, each after what it depends on; the same for the same input.

    Asks `dependencies` only for names that are reached. Raises HostError for a cycle.
    """
    graph: dict[str, tuple[str, ...]] = {}
    pending = list(wanted)
    while pending:
        name = pending.pop()
        if name not in graph:
            graph[name] = tuple(sorted(dependencies(name)))
            pending += graph[name]
    try:
        return tuple(TopologicalSorter(dict(sorted(graph.items()))).static_order())
    except CycleError as error:
        raise HostError(f"kernel modules depend on each other: {error.args[1]}") from error


def find_modules(unpacked: Path) -> tuple[Path, ...]:
    """The files to insert, in order, from an unpacked kernel package."""
    files = {_name(path.stem): path for path in unpacked.rglob("*.ko")}

    def dependencies(name: str) -> tuple[str, ...]:
        if name not in files:
            raise HostError(f"the kernel package has no module {name}")
        return module_dependencies(files[name].read_bytes())

    return tuple(files[name] for name in insertion_order(MODULES, dependencies))


def _name(name: str) -> str:
    return name.replace("-", "_")
