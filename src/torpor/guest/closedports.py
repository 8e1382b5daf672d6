"""Connections that nobody listens for: the kernel refuses them, and says so to the client alone.

What it answers with is seen here, so that the log can say what to do. Not the attempts are looked
at but the refusals, of which there are none at a port that something of the agent's own listens at.
A filter in the kernel drops all other packets: they wake nobody, and leave no trace in the memory
of a gateway that is not used.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import selectors
import socket
import struct
from collections.abc import Callable

from torpor.guest.dns import NOTED_MAX

_SO_ATTACH_FILTER = 26
_ETH_P_IP = 0x0800
_BYTES_MAX = 64  # the longest header of IP, and the ports after it

# Classic BPF over a packet that begins with its IP header: (code, jump if true, if false, operand).
_LOAD_BYTE, _LOAD_HALF = 0x30, 0x28
_LOAD_BYTE_AFTER, _LOAD_WORD_AFTER, _HEADER_LENGTH = 0x50, 0x40, 0xB1
_AND, _IF_EQUAL, _IF_ANY, _RETURN = 0x54, 0x15, 0x45, 0x06
_RST_ACK, _FLAGS = 0x14, 0x3F
# A refusal is a reset that answers a SYN, and so has the sequence number 0 (RFC 9293, 3.5.2).
_REFUSALS = (
    (_LOAD_BYTE, 0, 0, 9),
    (_IF_EQUAL, 0, 11, socket.IPPROTO_TCP),
    (_LOAD_HALF, 0, 0, 6),
    (_IF_ANY, 9, 0, 0x1FFF),  # a later fragment
    (_LOAD_BYTE, 0, 0, 12),
    (_IF_EQUAL, 7, 0, 127),  # from the loopback's own addresses: the agent's affair
    (_HEADER_LENGTH, 0, 0, 0),
    (_LOAD_BYTE_AFTER, 0, 0, 13),
    (_AND, 0, 0, _FLAGS),
    (_IF_EQUAL, 0, 3, _RST_ACK),
    (_LOAD_WORD_AFTER, 0, 0, 4),
    (_IF_EQUAL, 0, 1, 0),
    (_RETURN, 0, 0, _BYTES_MAX),
    (_RETURN, 0, 0, 0),
)


def open_socket() -> socket.socket:
    """On which the loopback's refusals come. Only root can. Raises OSError."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    try:
        program = b"".join(struct.pack("=HBBI", *each) for each in _REFUSALS)
        held = ctypes.create_string_buffer(program, len(program))
        filter_ = struct.pack("HP", len(_REFUSALS), ctypes.addressof(held))
        opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)
        opened.bind(("lo", _ETH_P_IP))
        opened.setblocking(False)
    except BaseException:
        opened.close()
        raise
    return opened


class ClosedPorts:
    """`refused` takes an address and port, each once."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        packets: socket.socket,
        refused: Callable[[str, int], None],
    ) -> None:
        self._packets, self._refused = packets, refused
        self._noted: set[tuple[str, int]] = set()
        selector.register(packets, selectors.EVENT_READ, self._take)

    def _take(self, mask: int) -> None:
        with contextlib.suppress(OSError):
            place = _source(self._packets.recv(_BYTES_MAX))
            if place not in self._noted and len(self._noted) < NOTED_MAX:
                self._noted.add(place)
                self._refused(*place)


def _source(packet: bytes) -> tuple[str, int]:
    (port,) = struct.unpack_from("!H", packet, (packet[0] & 0x0F) * 4)
    return str(ipaddress.IPv4Address(packet[12:16])), port
