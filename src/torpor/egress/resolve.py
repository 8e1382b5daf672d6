"""Which addresses a name leads to, and whether a machine may reach them.

Only public addresses may be reached: not the host itself, not its networks, no cloud's metadata,
and nothing that leads there by another way of writing an address. All that a name resolves to is
checked, and one that may not be reached spoils the name. What was checked is what is connected to
(`Admission.addresses`): the name is not resolved again in between, so that it cannot have changed.

A name of the host's own file (`egress.hostfile`) has the addresses that are written there, whatever
they are, and is not asked of DNS.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from weakref import WeakValueDictionary

TTL_S = 30.0
FAILED_TTL_S = 2.0
LOOKUP_S = 10.0
NAMES_MAX = 2000
# Lookups at once, of all and of one run: a run whose names are never answered waits alone.
THREADS = 64
LOOKUPS_MAX = 4

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Lookup = Callable[[str], Awaitable[Sequence[str]]]

# Beyond what the standard library knows not to be global: each can lead somewhere else.
_NETWORKS = [
    (ipaddress.ip_network(network), what)
    for network, what in (
        ("169.254.169.254/32", "a cloud's metadata"),
        ("168.63.129.16/32", "a cloud's metadata"),
        ("100.100.100.200/32", "a cloud's metadata"),
        ("192.0.0.192/32", "a cloud's metadata"),
        ("fd00:ec2::/32", "a cloud's metadata"),
        ("fd20:ce::/32", "a cloud's metadata"),
        ("100.64.0.0/10", "a provider's network"),
        ("192.88.99.0/24", "a way to IPv4 (6to4)"),
        ("::ffff:0:0/96", "an IPv4 address in IPv6"),
        ("::ffff:0:0:0/96", "an IPv4 address in IPv6"),
        ("::/96", "an IPv4 address in IPv6"),
        ("64:ff9b::/96", "a way to IPv4 (NAT64)"),
        ("64:ff9b:1::/48", "a way to IPv4 (NAT64)"),
        ("2002::/16", "a way to IPv4 (6to4)"),
        ("2001::/32", "a way to IPv4 (Teredo)"),
        ("fec0::/10", "a private network"),
        ("5f00::/16", "a way through routers"),
    )
]


class NoAddress(Exception):
    """`code`: unresolved, or private_address."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def fault(text: str, *, is_ours: Callable[[Address], bool] | None = None) -> str:
    """What an address is that may not be reached; "" if it may."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "no address"
    if address.is_loopback:
        return "the host itself"
    if address.is_unspecified:
        return "nobody's"
    for network, what in _NETWORKS:
        if address.version == network.version and address in network:
            return what
    if address.is_link_local:
        return "the host's own network"
    if address.is_multicast:
        return "a group of hosts"
    if not address.is_global:
        return "a private network"
    return "the host itself" if (is_ours or is_local)(address) else ""


def is_local(address: Address) -> bool:
    """Whether it is one of this host's. Nothing is sent: the kernel picks the address from which it
    would."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return ipaddress.ip_address(probe.getsockname()[0]) == address
    except OSError:
        return False


_threads = ThreadPoolExecutor(THREADS, "lookup")


async def look_up(host: str) -> list[str]:
    """By the system, which may take long, in a thread. Raises OSError."""
    lookup = partial(socket.getaddrinfo, host, None, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_threads, lookup)
    # A zone (fe80::1%eth0) is of a private network, as the address is.
    return list(dict.fromkeys(str(address[0]).partition("%")[0] for *_, address in found))


@dataclass(frozen=True)
class _Known:
    until: float
    addresses: tuple[str, ...] = ()
    problem: tuple[str, str] | None = None


class Resolver:
    """Use it within one event loop."""

    def __init__(
        self,
        lookup: Lookup = look_up,
        *,
        now: Callable[[], float] = time.monotonic,
        is_ours: Callable[[Address], bool] = is_local,
        timeout_s: float = LOOKUP_S,
    ) -> None:
        self._lookup, self._now, self._is_ours = lookup, now, is_ours
        self._timeout_s = timeout_s
        self._known: dict[str, _Known] = {}
        self._under_way: dict[str, asyncio.Task[_Known]] = {}
        self._turns = WeakValueDictionary[str, asyncio.Semaphore]()  # by run

    async def resolve(self, host: str, run: str = "") -> tuple[str, ...]:
        """All checked. Raises NoAddress."""
        known = self._current(host)
        if known is None:
            turn = self._turns.setdefault(run, asyncio.Semaphore(LOOKUPS_MAX))
            async with turn:
                known = self._current(host) or await self._share(host)
        if known.problem is not None:
            raise NoAddress(*known.problem)
        return known.addresses

    def _current(self, host: str) -> _Known | None:
        known = self._known.get(host)
        return None if known is None or known.until <= self._now() else known

    async def _share(self, host: str) -> _Known:
        task = self._under_way.get(host)
        if task is None:
            task = self._under_way[host] = asyncio.create_task(self._find(host))
            task.add_done_callback(lambda _: self._under_way.pop(host, None))
        # Who waits may go away; others wait for the same.
        return await asyncio.shield(task)

    async def _find(self, host: str) -> _Known:
        problem, addresses = None, tuple[str, ...]()
        try:
            async with asyncio.timeout(self._timeout_s):
                addresses = tuple(await self._lookup(host))
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            words = getattr(error, "strerror", None) or "it took too long"
            problem = ("unresolved", f"{host} has no address: {words}")
        else:
            problem = self._problem(host, addresses)
        if len(self._known) >= NAMES_MAX:
            self._known.clear()
        ttl = FAILED_TTL_S if problem else TTL_S
        known = self._known[host] = _Known(self._now() + ttl, addresses, problem)
        return known

    def _problem(self, host: str, addresses: Sequence[str]) -> tuple[str, str] | None:
        for address in addresses:
            if what := fault(address, is_ours=self._is_ours):
                return (
                    "private_address",
                    f"{host} leads to {address}, which is {what}. Only [[host]] in egress.toml can "
                    "allow that",
                )
        return None if addresses else ("unresolved", f"{host} has no address")
