"""Device state in the form in which QEMU gives it to a machine that has run already. Pure.

A machine that was never loaded takes device state as an incoming migration, once in its life.
One that has run takes it as an internal snapshot (QMP `snapshot-load`): a qcow2 file, here without
a disk worth mentioning, whose snapshot has nothing but the devices. (`xen-load-devices-state`
would need no file; QEMU 7.2 aborts after it, as it frees what only a migration allocates.)

One section is left out of the state: `cpu_common`. On loading it QEMU throws away all translated
code, because RAM may have changed behind its back. Here it learns of each page that did
(`QemuMachine.forget`), and to keep the rest is why such a machine is used at all. What the
section says is not missed: that the processor was halted (it then comes back from `hlt` without a
cause, as any kernel allows), and that an interrupt was pending, which the local APIC's own section
has too and which is looked at again with the next interrupt: a thaw begins with one, the link's.
Anything else that was pending is not of that kind, and the state is refused.

The file (docs/interop/qcow2.txt of QEMU), version 3, clusters of 64 KiB, one for each of: header,
refcount table, refcount block, table of the (empty) disk, snapshot table, table of the snapshot,
and its only second-level table; then the state. It lies behind the disk, at 512 MiB, where the
snapshot's second table entry points.
"""

from __future__ import annotations

import struct

from torpor.core.errors import Damaged

TAG = "torpor"

_SECTION, _FOOTER = 4, 0x7E  # QEMU_VM_SECTION_FULL, QEMU_VM_SECTION_FOOTER
_NAME = b"\x0acpu_common"
_CPU = struct.Struct(">II")  # halted, interrupt_request
# CPU_INTERRUPT_HARD and, of x86, CPU_INTERRUPT_POLL: look at the APIC.
_ANY_APIC_INTERRUPT = 0x02 | 0x10

_CLUSTER = 1 << 16
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_SNAPSHOT = struct.Struct(">QIHHIIQIIQQ")
_ID = b"1"
_COPIED = 1 << 63  # QCOW_OFLAG_COPIED: nobody else refers to the cluster
_REFCOUNTS, _BLOCK, _DISK, _SNAPSHOTS, _TABLE, _SECOND, _STATE = range(1, 8)  # clusters
STATE_BYTES_MAX = 64 << 20  # far more than any machine of ours, far less than a second table maps


def for_snapshot_load(state: bytes) -> bytes:
    """The file that gives a machine which has run the device state `state`, as snapshot TAG.

    Raises Damaged if that cannot be: it is no device state, or not of an idle machine.
    """
    devices = _without_cpu_common(state)
    if len(devices) > STATE_BYTES_MAX:
        raise Damaged(f"a device state of {len(devices)} bytes is none of a machine of ours")
    clusters = -(-len(devices) // _CLUSTER)
    header = _HEADER.pack(
        *(b"QFI\xfb", 3, 0, 0, _CLUSTER.bit_length() - 1, _CLUSTER, 0),
        *(1, _DISK * _CLUSTER, _REFCOUNTS * _CLUSTER, 1, 1, _SNAPSHOTS * _CLUSTER),
        *(0, 0, 0, 4, _HEADER.size),
    )
    tag = TAG.encode()
    snapshot = _SNAPSHOT.pack(
        *(_TABLE * _CLUSTER, 2, len(_ID), len(tag), 0, 0, 0, 0, 16, len(devices), _CLUSTER)
    )
    parts = (
        header,
        struct.pack(">Q", _BLOCK * _CLUSTER),
        struct.pack(">H", 1) * (_STATE + clusters),
        b"",
        snapshot + _ID + tag,
        struct.pack(">QQ", 0, _SECOND * _CLUSTER | _COPIED),
        b"".join(struct.pack(">Q", (_STATE + i) * _CLUSTER | _COPIED) for i in range(clusters)),
        devices,
    )
    return b"".join(part + bytes(-len(part) % _CLUSTER or (not part) * _CLUSTER) for part in parts)


def _without_cpu_common(state: bytes) -> bytes:
    """A stream of sections: 4, id (4 bytes), length of the name, name, instance (4), version (4),
    data, 0x7e, id again."""
    name = state.find(_NAME)
    begin, data = name - 5, name + len(_NAME) + 8
    end = data + _CPU.size + 5
    if (
        begin < 0
        or end > len(state)
        or state[begin] != _SECTION
        or state[end - 5] != _FOOTER
        or state[end - 4 : end] != state[begin + 1 : name]
    ):
        raise Damaged("a device state without a plain section of its processor")
    _, pending = _CPU.unpack_from(state, data)
    if pending & ~_ANY_APIC_INTERRUPT:
        raise Damaged(f"a device state with {pending:#x} pending at its processor")
    return state[:begin] + state[end:]
