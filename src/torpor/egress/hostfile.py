"""What the host says about all agents: `$TORPOR_HOME/egress.toml`.

    [[host]]
    name = "api.internal.example"       # may be asked for by agents though its address is private
    addresses = ["127.0.0.1"]           # resolved to this instead of by DNS; the only way to such
    ports = [8443]                      # of these addresses; all, if it says none
    ca = "internal-ca.pem"              # trusted for this host beside the system's

    [[deny]]                            # whatever agents' files say
    host = "**.example.net"             # ** alone is every host; methods, paths, port, protocol

    [[ask]]                             # a person is asked, whatever agents' files say
    host = "api.github.com"
    methods = ["DELETE"]

    [limits]                            # of what all agents may use
    cost_per_day = "20 USD"             # cost, tokens, requests, bytes_out, bytes_in, each
    requests_per_run = 10000            #   per_run, per_day, per_key (`egress.budgets`)
    price_unknown = "0.50 USD"          # what a model's call counts whose price nobody knows
    ask = true                          # passing one asks a person; else what passes it is denied

It allows nothing: agents' rules do, and the stricter of both wins. It is read anew when it has
changed. While it cannot be read, nothing goes out.
"""

from __future__ import annotations

import ipaddress
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torpor.core import amounts
from torpor.core.egress import Rule, check_keys, flag, parse_rule
from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern
from torpor.core.prices import UNKNOWN as PRICE_UNKNOWN
from torpor.egress.budgets import PER, Limit

BYTES_MAX = 1 << 20
ADDRESSES_MAX = 16
_RULE_KEYS = ("host", "port", "protocol", "methods", "paths")

Stamp = tuple[int, int, int] | None


@dataclass(frozen=True)
class Named:
    """A host that has addresses, or an authority, of its own here. No addresses: those of DNS."""

    name: str
    addresses: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    authority: str = ""  # PEM


@dataclass(frozen=True)
class HostRules:
    """`problem` is why the file cannot be read, and then all is denied."""

    hosts: Mapping[str, Named] = field(default_factory=dict)
    ceilings: tuple[Rule, ...] = ()
    limits: tuple[Limit, ...] = ()
    price_unknown: float = PRICE_UNKNOWN
    problem: str = ""
    read: tuple[Path, ...] = ()  # what else it is made of


class HostFile:
    """The file as it is now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamps: dict[Path, Stamp] = {}
        self._rules: HostRules | None = None

    def current(self) -> HostRules:
        """Never raises."""
        if self._rules is None or any(_stamp(path) != was for path, was in self._stamps.items()):
            # Taken before it is read: what changes meanwhile is read again.
            self._stamps = {self._path: _stamp(self._path)}
            try:
                self._rules = read(self._path)
            except Invalid as error:
                problem = f"{error.message}. {error.hint}" if error.hint else error.message
                self._rules = HostRules(problem=problem.rstrip("."))
            self._stamps |= {path: _stamp(path) for path in self._rules.read}
        return self._rules


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def read(path: Path) -> HostRules:
    """Raises Invalid. No file is no rules."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return HostRules()
    except OSError as error:
        raise Invalid(f"{path}: {error.strerror}") from error
    if len(data) > BYTES_MAX:
        raise Invalid(f"{path} is larger than {BYTES_MAX:,} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise Invalid(f"{path}: {error}") from error
    return parse(document, path)


def parse(document: Mapping[str, Any], path: Path) -> HostRules:
    """Raises Invalid, whose message begins with `path`."""
    what = str(path)
    check_keys(document, ("host", "deny", "ask", "limits"), what)
    hosts: dict[str, Named] = {}
    files: list[Path] = []
    for entry, where in _tables(document, "host", what):
        named = _host(entry, where, path.parent, files)
        if named.name in hosts:
            raise Invalid(f"{where}: {named.name} is there twice")
        hosts[named.name] = named
    limits = document.get("limits", {})
    if not isinstance(limits, Mapping):
        raise Invalid(f"{what}: [limits] must be a table")
    return HostRules(
        hosts=hosts,
        ceilings=(
            *(_rule(entry, where, "deny") for entry, where in _tables(document, "deny", what)),
            *(_rule(entry, where, "ask") for entry, where in _tables(document, "ask", what)),
        ),
        limits=_limits(limits, f"{what}: limits"),
        price_unknown=_price(limits, f"{what}: limits"),
        read=tuple(files),
    )


def _tables(
    document: Mapping[str, Any], key: str, what: str
) -> list[tuple[Mapping[str, Any], str]]:
    given = document.get(key, [])
    if not isinstance(given, list) or not all(isinstance(entry, Mapping) for entry in given):
        raise Invalid(f"{what}: {key} must be tables", hint=f"Write each as [[{key}]].")
    return [(entry, f"{what}: {key}[{n}]") for n, entry in enumerate(given)]


def _rule(entry: Mapping[str, Any], where: str, decision: str) -> Rule:
    check_keys(entry, _RULE_KEYS, where)
    rule = parse_rule({**entry, decision: True}, where, limiting=True)
    return replace(rule, origin=f"egress.toml {decision} {rule.host}")


def _host(entry: Mapping[str, Any], where: str, folder: Path, files: list[Path]) -> Named:
    check_keys(entry, ("name", "addresses", "ports", "ca"), where)
    name = entry.get("name")
    if not isinstance(name, str) or "*" in name:
        raise Invalid(f"{where} needs the name of one host")
    ports = entry.get("ports", [])
    if not isinstance(ports, list) or not all(type(p) is int and 0 < p < 65536 for p in ports):
        raise Invalid(f"{where}.ports must be a list of ports")
    return Named(
        name=check_pattern(name, f"{where}.name"),
        addresses=_addresses(entry, where),
        ports=tuple(ports),
        authority=_authority(entry, where, folder, files),
    )


def _addresses(entry: Mapping[str, Any], where: str) -> tuple[str, ...]:
    if "addresses" not in entry:
        return ()
    given = entry["addresses"]
    if not isinstance(given, list) or not 0 < len(given) <= ADDRESSES_MAX:
        raise Invalid(f"{where}.addresses must be a list of 1 to {ADDRESSES_MAX} addresses")
    return tuple(_address(each, where) for each in given)


def _address(given: Any, where: str) -> str:
    try:
        address = ipaddress.ip_address(given if isinstance(given, str) else "")
    except ValueError:
        raise Invalid(f"{where}.addresses: {str(given)[:60]!a} is no address") from None
    if address.is_multicast or address.is_unspecified:
        raise Invalid(f"{where}.addresses: {address} is not the address of a host")
    return str(address)


def _authority(entry: Mapping[str, Any], where: str, folder: Path, files: list[Path]) -> str:
    if "ca" not in entry:
        return ""
    if not isinstance(entry["ca"], str) or not entry["ca"]:
        raise Invalid(f"{where}.ca must be the path of a file with certificates (PEM)")
    path = folder / entry["ca"]
    files.append(path)
    try:
        text = path.read_text()
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, UnicodeDecodeError, ValueError) as error:  # an SSLError is an OSError
        problem = error.strerror if isinstance(error, OSError) else "no text"
        raise Invalid(f"{where}.ca: {path}: {problem or 'no certificates in it'}") from error
    return text


def _limits(given: Mapping[str, Any], what: str) -> tuple[Limit, ...]:
    known = [f"{kind}_{per}" for kind in amounts.KINDS for per in PER]
    check_keys(given, (*known, "price_unknown", "ask"), what)
    asks = flag(given, "ask", what)
    return tuple(
        Limit(
            per, kind, amounts.parse_amount(kind, given[key], f"{what}.{key}"), asks, "egress.toml"
        )
        for kind in amounts.KINDS
        for per in PER
        if (key := f"{kind}_{per}") in given
    )


def _price(given: Mapping[str, Any], what: str) -> float:
    if "price_unknown" not in given:
        return PRICE_UNKNOWN
    return float(amounts.parse_amount("cost", given["price_unknown"], f"{what}.price_unknown"))
