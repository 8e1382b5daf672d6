"""Device state as a file that a machine which has run takes."""

from __future__ import annotations

import struct

import pytest

from torpor.core.errors import Damaged
from torpor.engine.qemu.reload import TAG, for_snapshot_load

CLUSTER = 1 << 16


def section(number: int, name: bytes, data: bytes) -> bytes:
    head = struct.pack(">BIB", 4, number, len(name)) + name + struct.pack(">II", 0, 1)
    return head + data + struct.pack(">BI", 0x7E, number)


def state(halted: int = 1, pending: int = 0, more: bytes = b"") -> bytes:
    cpu = section(7, b"cpu_common", struct.pack(">II", halted, pending) + more)
    return (
        b"QEVM\0\0\0\3" + section(1, b"timer", b"abc") + cpu + section(9, b"apic", b"xyz") + b"\0"
    )


def taken(file: bytes) -> bytes:
    """What QEMU reads as the state of the file's snapshot."""
    magic, version, *_, bits, size, _, l1, l1_at = struct.unpack_from(">4sIQIIQIIQ", file)
    assert (magic, version, 1 << bits, size, l1) == (b"QFI\xfb", 3, CLUSTER, CLUSTER, 1)
    assert file[l1_at : l1_at + 8] == bytes(8)  # the disk is empty
    count, at = struct.unpack_from(">IQ", file, 60)
    assert count == 1
    table, entries, id_length, name_length, *_, extra, length, disk = struct.unpack_from(
        ">QIHHIIQIIQQ", file, at
    )
    assert (entries, extra, disk) == (2, 16, CLUSTER)
    name_at = at + 56 + id_length
    assert file[name_at : name_at + name_length].decode() == TAG
    empty, second = struct.unpack_from(">QQ", file, table)
    assert not empty
    second &= (1 << 56) - 1
    parts = []
    for number in range(-(-length // CLUSTER)):
        (entry,) = struct.unpack_from(">Q", file, second + 8 * number)
        parts.append(file[entry & ((1 << 56) - 1) :][:CLUSTER])
    return b"".join(parts)[:length]


def test_all_but_the_section_that_makes_qemu_forget() -> None:
    for halted, pending in ((1, 0), (0, 2), (0, 0x12)):
        without = state(halted, pending).replace(
            section(7, b"cpu_common", struct.pack(">II", halted, pending)), b""
        )
        assert taken(for_snapshot_load(state(halted, pending))) == without


def test_a_state_of_many_clusters() -> None:
    long = state() + bytes(range(256)) * 1000
    assert taken(for_snapshot_load(long)).endswith(bytes(range(256)) * 1000)


def test_clusters_are_counted_once_each() -> None:
    file = for_snapshot_load(state())
    assert len(file) % CLUSTER == 0
    clusters = len(file) // CLUSTER
    counts = struct.unpack_from(f">{clusters + 1}H", file, 2 * CLUSTER)
    assert counts == (1,) * clusters + (0,)


@pytest.mark.parametrize(
    "damaged",
    [b"", b"cpu_common", state()[:60], state(more=b"\x05"), state(pending=0x200)],
    ids=["nothing", "a name", "cut off", "more in it", "an NMI pending"],
)
def test_what_cannot_be_given(damaged: bytes) -> None:
    with pytest.raises(Damaged):
        for_snapshot_load(damaged)
