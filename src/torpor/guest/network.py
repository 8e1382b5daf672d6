"""The network of a machine, which has no device: all of IPv4 is the loopback's.

So every connection ends at the gateway, or at nobody: at ports that no rule names it is refused at
once, which the gateway sees and has logged (`closedports`), and a literal address is a connection
that can be refused in words and logged, where an unreachable network would be an error that says
nothing. IPv6 has no route but ::1. What is no TCP meets closed ports (UDP, QUIC) or silence (ICMP).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import NamedTuple

from torpor.guest import closedports, dns
from torpor.guest.gateway import listener_at, loopback
from torpor.guest.places import USUAL_PORTS

GATEWAY_UID = 1001
_RESOLV = "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n"
_SETTINGS = (("/proc/sys/net/ipv4/icmp_echo_ignore_all", "1"),)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_RTM_NEWROUTE, _REQUEST, _ACK, _CREATE = 24, 0x001, 0x004, 0x400
_TABLE_LOCAL, _PROTOCOL_BOOT, _SCOPE_HOST, _TYPE_LOCAL, _RTA_OIF = 255, 3, 254, 2, 4
_NLMSG_ERROR = 2
_EEXIST = 17


class Listeners(NamedTuple):
    """What only root can open. `model` is the deployment's own model's."""

    model: socket.socket
    web: tuple[socket.socket, ...] = ()  # on all addresses, at the ports of the web
    dns_udp: socket.socket | None = None
    dns_tcp: socket.socket | None = None
    closed: socket.socket | None = None  # see `closedports`

    def close(self) -> None:
        for each in (self.model, *self.web, self.dns_udp, self.dns_tcp, self.closed):
            if each is not None:
                each.close()


def prepare(model_port: int, *, transparent: bool) -> Listeners:
    """Listen; if `transparent`, with all addresses led here."""
    if not transparent:
        return Listeners(loopback(model_port))
    _loopback_up()
    _route_all()
    for path, value in _SETTINGS:
        with contextlib.suppress(FileNotFoundError):
            Path(path).write_text(value)
    return Listeners(
        loopback(model_port),
        tuple(listener_at("", port) for port in USUAL_PORTS),
        _datagrams(dns.PORT),
        loopback(dns.PORT),
        _closed_ports(),
    )


def write_resolver(root: Path = Path("/")) -> None:
    """Names are looked up at the gateway."""
    path = root / "etc/resolv.conf"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    path.write_text(_RESOLV)


def _datagrams(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", port))
    return listener


def _closed_ports() -> socket.socket | None:
    try:
        return closedports.open_socket()
    except OSError as error:  # a kernel without packet sockets
        print(f"torpor gateway: refused connections are not logged: {error}", flush=True)
        return None


def _loopback_up() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0)
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        (flags,) = struct.unpack_from("H", answer, 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


def _route_all() -> None:
    """`ip route add local default dev lo table local`."""
    index = socket.if_nametoindex("lo")
    route = struct.pack(
        "=BBBBBBBBI",
        *(socket.AF_INET, 0, 0, 0),
        *(_TABLE_LOCAL, _PROTOCOL_BOOT, _SCOPE_HOST, _TYPE_LOCAL, 0),
    )
    route += struct.pack("=HHI", 8, _RTA_OIF, index)
    header = struct.pack("=IHHII", 16 + len(route), _RTM_NEWROUTE, _REQUEST | _ACK | _CREATE, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.send(header + route)
        answer = netlink.recv(4096)
    _, kind, _, _, _ = struct.unpack_from("=IHHII", answer)
    (code,) = struct.unpack_from("=i", answer, 16)
    if kind == _NLMSG_ERROR and code not in (0, -_EEXIST):
        raise OSError(-code, f"cannot route all addresses to lo: {os.strerror(-code)}")
