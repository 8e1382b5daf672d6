"""Python's own sockets, where there is no machine: names lead to the gateway as in one.

Not all clients follow proxy variables (aiohttp does not by itself, drivers of databases never do).
So a name that a rule knows gets an address of the loopback, at which `torpor.sdk.endpoint` listens;
other names do not exist, and addresses beyond the loopback are refused. This is for whoever means
no harm: what calls C for it, or starts another program, is as free as its user.
"""

from __future__ import annotations

import errno
import functools
import ipaddress
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from torpor.sdk.endpoint import Endpoint

_UNREACHED = "addresses are not reached, only names that a rule of the agent's file names"
_CLOSED = "no rule of the agent's file names it"


class _Original(NamedTuple):
    getaddrinfo: Callable[..., Any]
    gethostbyname: Callable[..., Any]
    gethostbyname_ex: Callable[..., Any]
    connect: Callable[..., Any]
    connect_ex: Callable[..., Any]


class Routes:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._own = {"", "localhost", "localhost.localdomain", socket.gethostname().lower()}
        kind = socket.socket
        self._original = _Original(
            socket.getaddrinfo,
            socket.gethostbyname,
            socket.gethostbyname_ex,
            kind.connect,
            kind.connect_ex,
        )

    def install(self) -> None:
        """From now on, in this process."""
        original, routes = self._original, self
        kind: Any = socket.socket

        @functools.wraps(original.connect)
        def connect(self: socket.socket, address: Any) -> Any:
            return original.connect(self, routes._led(self, address))

        @functools.wraps(original.connect_ex)
        def connect_ex(self: socket.socket, address: Any) -> Any:
            try:
                led = routes._led(self, address)
            except ConnectionRefusedError:
                return errno.ECONNREFUSED
            return original.connect_ex(self, led)

        kind.connect, kind.connect_ex = connect, connect_ex
        functions: Any = socket
        functions.getaddrinfo = self._getaddrinfo
        functions.gethostbyname = self._gethostbyname
        functions.gethostbyname_ex = self._gethostbyname_ex

    # Names.

    def _getaddrinfo(
        self,
        host: Any,
        port: Any,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> Any:
        if (address := self._address(host)) is None:
            return self._original.getaddrinfo(host, port, family, type, proto, flags)
        if family not in (socket.AF_UNSPEC, socket.AF_INET):
            raise _unknown(host)
        return self._original.getaddrinfo(address, port, socket.AF_INET, type, proto, flags)

    def _gethostbyname(self, hostname: Any) -> Any:
        return self._address(hostname) or self._original.gethostbyname(hostname)

    def _gethostbyname_ex(self, hostname: Any) -> Any:
        if (address := self._address(hostname)) is None:
            return self._original.gethostbyname_ex(hostname)
        return hostname, [], [address]

    def _address(self, host: Any) -> str | None:
        """None for this host itself, and for what is no name. Raises gaierror."""
        name = _text(host)
        if name is None or name.lower() in self._own or _is_address(name):
            return None
        address = self._endpoint.address_of(name)
        if address is None:
            raise _unknown(name)
        return address

    # Connections.

    def _led(self, connecting: socket.socket, address: Any) -> Any:
        """Where it connects to instead. Raises ConnectionRefusedError, gaierror."""
        internet = connecting.family in (socket.AF_INET, socket.AF_INET6)
        if not internet or connecting.type != socket.SOCK_STREAM:
            return address
        if not isinstance(address, tuple) or len(address) < 2 or not isinstance(address[1], int):
            return address
        name, port = _text(address[0]), address[1]
        if name is None:
            return address
        host = self._address(name) or name
        if not _is_address(host):
            return address
        literal = ipaddress.ip_address(host.partition("%")[0])
        if not (literal.is_loopback or literal.is_unspecified):
            self._endpoint.note("address", name, port)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"{name}: {_UNREACHED}")
        if literal.version != 4:
            return address
        if (closed := self._endpoint.name_closed_at(host, port)) is not None:
            self._endpoint.note("unknown_port", closed, port)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"port {port} of {closed}: {_CLOSED}")
        return self._endpoint.listener_of(host, port) or (host, port)


def _text(host: Any) -> str | None:
    """As it would be looked up: in ASCII."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "backslashreplace")
    if not isinstance(host, str) or host.isascii():
        return host if isinstance(host, str) else None
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host.encode("ascii", "backslashreplace").decode()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _unknown(name: str) -> socket.gaierror:
    words = f"no rule of the agent's file names {name[:253]}"
    return socket.gaierror(socket.EAI_NONAME, f"Name or service not known: {words}")
