"""Where the agent's connections lead: each name that a rule knows gets an address of its own, so
that the address that a client connects to says which name it looked up. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torpor.core.egress import (
    ALLOW,
    ASK,
    HTTP,
    HTTPS,
    MODEL,
    RECORDED_HTTP,
    TCP,
    Request,
    Rule,
    judge,
)
from torpor.core.errors import Invalid
from torpor.core.hostnames import matches, normalize_host
from torpor.guest.http1 import Head
from torpor.guest.proxied import Nowhere
from torpor.guest.serving import Site

# Set aside for measurements between networks (RFC 2544): no real host has one of these.
_FIRST = int(ipaddress.IPv4Address("198.18.0.1"))
_LAST = int(ipaddress.IPv4Address("198.19.255.254"))
USUAL_PORTS = {80: HTTP, 443: HTTPS}


def _synthetic() -> Iterator[str]:
    return (str(ipaddress.IPv4Address(each)) for each in range(_FIRST, _LAST + 1))


class Places:
    """`addresses` are given out in this order."""

    def __init__(self, addresses: Iterator[str] | None = None) -> None:
        self._rules: tuple[Rule, ...] = ()
        self._addresses: dict[str, str] = {}  # by name
        self._names: dict[str, str] = {}  # by address
        self._free = addresses or _synthetic()

    def obey(self, rules: Iterable[Mapping[str, Any]]) -> None:
        """These rules, as the host has sent them, count from now on. Addresses stay."""
        self._rules = tuple(map(Rule.from_guest, rules))

    @property
    def names(self) -> list[str]:
        """Those that rules have in full."""
        return sorted({rule.host for rule in self._rules if not rule.deny and "*" not in rule.host})

    def address_of(self, name: str) -> str | None:
        """None for a name that no rule knows."""
        try:
            name = normalize_host(name, "the name")
        except Invalid:
            return None
        if not self._allowing(name):
            return None
        if (address := self._addresses.get(name)) is None:
            address = self._allot(name)
        return address

    def _allowing(self, name: str) -> list[Rule]:
        return [rule for rule in self._rules if not rule.deny and matches(rule.host, name)]

    def _allot(self, name: str) -> str | None:
        try:
            address = str(ipaddress.IPv4Address(name))  # a rule may name an address
        except ValueError:
            address = next(self._free, "")
            if not address:
                return None
        self._addresses[name], self._names[address] = address, name
        return address

    def name_of(self, address: str) -> str | None:
        """For which it was given out."""
        return self._names.get(address)

    def unusual_ports(self, name: str) -> list[int]:
        """At which rules allow `name`, beside those of the web, which are always listened at."""
        ports = {rule.port for rule in self._allowing(name)}
        return sorted(ports - {0, *USUAL_PORTS})

    def locate(self, address: str, port: int) -> Site | None:
        """See `gateway.Locate`. An address that was never given out is nobody's; over plain HTTP
        its client can be answered all the same, in words (by the host, which refuses it)."""
        name = self._names.get(address)
        if name is None:
            return Site(HTTP, address, port) if port == 80 else None
        protocols = {rule.protocol for rule in self._allowing(name) if rule.port == port}
        for scheme in (TCP, HTTPS, HTTP):
            if scheme in protocols:
                return Site(scheme, name, port)
        return Site(USUAL_PORTS[port], name, port) if port in USUAL_PORTS else None

    def find(self, host: str, port: int) -> Site | Nowhere:
        """See `proxied.Find`."""
        address = self.address_of(host)
        site = None if address is None else self.locate(address, port)
        if site is not None:
            return site
        verdict = judge(self._rules, Request(HTTPS, host, port, "GET", "/"))
        return Nowhere("unknown_name" if address is None else "unknown_port", verdict.message)

    def classify(self, site: Site, head: Head) -> dict[str, Any] | None:
        """See `serving.Classify`. What the rules deny is the host's to refuse, and to log."""
        if site.is_model:
            return {"kind": MODEL}
        verdict = judge(
            self._rules,
            Request(site.scheme, site.host, site.port, head.method, head.target, head.headers),
        )
        secret = {"secret": True} if verdict.secret else {}
        if verdict.decision == ASK:
            return {"kind": verdict.record or RECORDED_HTTP, "ask": True} | secret
        if verdict.decision == ALLOW and verdict.record:
            return {"kind": verdict.record} | secret
        return None
