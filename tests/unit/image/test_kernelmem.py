"""The kernel laid out as in memory, from small kernels made here."""

from __future__ import annotations

import gzip
import struct

import pytest

from torpor.core.errors import HostError
from torpor.image.kernelmem import PAGE, kernel_memory

LOAD, NOTE = 1, 4


def elf(*segments: tuple[int, int, int, bytes]) -> bytes:
    """An ELF64 file of (type, virtual, physical, content) segments."""
    table, body = b"", b""
    at = 64 + 56 * len(segments)
    for kind, virtual, physical, content in segments:
        size = len(content)
        table += struct.pack("<IIQQQQQQ", kind, 0, at, virtual, physical, size, size, PAGE)
        body += content
        at += size
    head = b"\x7fELF".ljust(32, b"\0") + struct.pack("<Q", 64) + bytes(16)
    return head + struct.pack("<H", len(segments)) + bytes(6) + table + body


def bzimage(payload: bytes, sectors: int = 3) -> bytes:
    image = bytearray((sectors + 1) * 512 + 32)
    image[0x1F1] = sectors
    image[0x1FE:0x200] = b"\x55\xaa"
    struct.pack_into("<II", image, 0x248, 32, len(payload))
    return bytes(image) + payload


def test_segments_lie_at_their_physical_addresses() -> None:
    text, data = b"T" * (PAGE + 10), b"D" * 20
    vmlinux = elf(
        (LOAD, 0xFFFF_8100_0000, 16 * PAGE, text),
        (NOTE, 0xFFFF_8200_0000, 99 * PAGE, b"note"),
        (LOAD, 0xFFFF_8300_0000, 19 * PAGE + 5, data),
        (LOAD, 0, 40 * PAGE, b"per-CPU"),  # copied away at boot: not where the file says
    )
    memory = kernel_memory(bzimage(gzip.compress(vmlinux)))
    assert memory.first_page == 16
    assert len(memory.pages) == 4 * PAGE
    expected = bytearray(4 * PAGE)
    expected[: len(text)] = text
    expected[3 * PAGE + 5 : 3 * PAGE + 25] = data
    assert memory.pages == bytes(expected)


def test_the_length_behind_the_payload_does_no_harm() -> None:
    packed = gzip.compress(elf((LOAD, 1, PAGE, b"x"))) + struct.pack("<I", 4711)
    assert kernel_memory(bzimage(packed)).pages.startswith(b"x\0")


@pytest.mark.parametrize(
    ("vmlinuz", "says"),
    [
        (bytes(2048), "no bzImage"),
        (bzimage(b"unknown packer"), "packed in a way not known here"),
        (bzimage(gzip.compress(b"no ELF")), "could not unpack"),
        (bzimage(gzip.compress(elf((NOTE, 1, PAGE, b"x")))), "nothing to load"),
    ],
)
def test_what_is_no_kernel_is_refused(vmlinuz: bytes, says: str) -> None:
    with pytest.raises(HostError, match=says):
        kernel_memory(vmlinuz)
