"""The kernel as it lies in a machine's memory, for snapshots to refer to.

A quarter of what a template stores would be the kernel: half of its pages are just as in the
kernel's file, most others differ in a few patched places. So the image keeps the kernel a second
time, unpacked and laid out as in physical memory, behind the root file system in the same file
(a file system does not mind what follows it). Needs `nokaslr`: elsewhere the pages would be full
of relocated addresses. (A kernel's random place is the same in all machines of one template
anyway.)

vmlinuz is a bzImage (Documentation/arch/x86/boot.rst in Linux): at 0x1f1 the number of set-up
sectors, at 0x248 and 0x24c offset and length of the compressed ELF file behind them.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass

from torpor.core.errors import HostError
from torpor.image.tools import require

PAGE = 4096
# How the payload begins, and what unpacks it. Its last four bytes are a length that the programs
# take for rubbish behind the data: they complain, after they have written everything.
_UNPACK = {
    b"\x02\x21\x4c\x18": ("lz4", "-dc"),
    b"\xfd7zXZ": ("xz", "-dc"),
    b"\x28\xb5\x2f\xfd": ("zstd", "-dc"),
    b"\x1f\x8b\x08": ("gzip", "-dc"),
}
_ELF_MAGIC = b"\x7fELF"
_PT_LOAD = 1


@dataclass(frozen=True)
class KernelMemory:
    """`pages` bytes, whole pages, as they lie from physical page `first_page` on."""

    first_page: int
    pages: bytes


def kernel_memory(vmlinuz: bytes) -> KernelMemory:
    """Raises HostError when `vmlinuz` is no kernel of a kind known here."""
    return _laid_out(_unpacked(vmlinuz))


def _unpacked(vmlinuz: bytes) -> bytes:
    if vmlinuz[0x1FE:0x200] != b"\x55\xaa":
        raise HostError("the kernel is no bzImage")
    offset, length = struct.unpack_from("<II", vmlinuz, 0x248)
    start = (vmlinuz[0x1F1] + 1) * 512 + offset
    payload = vmlinuz[start : start + length]
    for magic, command in _UNPACK.items():
        if payload.startswith(magic):
            require(command[0])
            unpacked = subprocess.run(command, input=payload, capture_output=True).stdout
            if unpacked.startswith(_ELF_MAGIC):
                return unpacked
            raise HostError(f"{command[0]} could not unpack the kernel")
    raise HostError(f"the kernel is packed in a way not known here ({payload[:6]!r})")


def _laid_out(vmlinux: bytes) -> KernelMemory:
    """The segments of an ELF64 file at their physical addresses, but not its per-CPU one: that
    is copied elsewhere and then freed."""
    table, count = struct.unpack_from("<32xQ16xH", vmlinux, 0)
    segments = []
    for n in range(count):
        kind, _, offset, virtual, physical, size = struct.unpack_from(
            "<IIQQQQ", vmlinux, table + 56 * n
        )
        if kind == _PT_LOAD and virtual:
            segments.append((physical, vmlinux[offset : offset + size]))
    if not segments:
        raise HostError("the kernel's ELF file has nothing to load")
    first = min(physical for physical, _ in segments) // PAGE
    end = max(physical + len(body) for physical, body in segments)
    memory = bytearray((-(-end // PAGE) - first) * PAGE)
    for physical, body in segments:
        at = physical - first * PAGE
        memory[at : at + len(body)] = body
    return KernelMemory(first, bytes(memory))
