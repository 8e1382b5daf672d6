"""What a secret is, and whom it serves: its name, its value, hosts, placement, agents. Pure.

    torpor secrets set GITHUB_TOKEN --host api.github.com --agent triage

The value goes to these hosts and to no other, in this place of a request and in no other, for these
agents and for no other, whatever an agent's file says: that only asks for a secret by its name. So
these terms are sealed along with the value (`torpor.egress.sealed`).

`placement` is one of

    {"header": "Authorization: Bearer {}"}   a header, the value where {} stands
    {"query": "key"}                         a parameter of the target
    {"basic": "user"}                        basic authentication: the value is the password
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torpor.core.egress import SECRET_CHARS_MAX
from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern
from torpor.core.limits import NAME_MAX
from torpor.core.presets import Preset, placement, presets

HEADER, QUERY, BASIC = "header", "query", "basic"
BEARER = {HEADER: "Authorization: Bearer {}"}

# A shorter one could stand in any answer, in which it is looked for.
VALUE_CHARS_MIN, VALUE_CHARS_MAX = 6, 16 * 1024
HOSTS_MAX, AGENTS_MAX = 100, 100
PLACE_CHARS_MAX = 1024

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]{{0,{SECRET_CHARS_MAX - 1}}}", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
_PARAMETER = re.compile(r"[A-Za-z0-9._~\[\]-]+", re.ASCII)
# Of the connection and not of the request (RFC 9110, 7.6.1), or what decides where and how it goes.
_NOT_OURS = frozenset(
    (
        *("connection", "content-length", "expect", "host", "http2-settings", "keep-alive", "te"),
        *("proxy-authenticate", "proxy-authorization", "proxy-connection", "trailer"),
        *("transfer-encoding", "upgrade"),
    )
)


@dataclass(frozen=True)
class Terms:
    """Whom a secret serves. `agents`: None is all."""

    hosts: tuple[str, ...]
    placement: Mapping[str, str]
    agents: tuple[str, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "hosts": list(self.hosts),
            "placement": dict(self.placement),
            "agents": None if self.agents is None else list(self.agents),
        }

    @classmethod
    def of_json(cls, given: Mapping[str, Any]) -> Terms:
        """As `to_json` wrote it; `parse_terms` is for what people write."""
        agents = given["agents"]
        hosts, place = tuple(map(str, given["hosts"])), dict(given["placement"])
        return cls(hosts, place, None if agents is None else tuple(map(str, agents)))

    def serves_agent(self, agent: str | None) -> bool:
        return self.agents is None or agent in self.agents


def check_secret_name(name: Any) -> str:
    """Raises Invalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{str(name)[:80]!a} is no name of a secret",
            hint="A name is like GITHUB_TOKEN: letters, digits, _ and -, and no digit first.",
        )
    return name


def check_value(value: str, place: Mapping[str, str]) -> str:
    """A secret's value without the line's end that a file or a pipe leaves. Raises Invalid, which
    shows nothing of it."""
    value = value.removesuffix("\n").removesuffix("\r")
    if "\n" in value or "\r" in value:
        raise Invalid(
            "the value has several lines",
            hint="A secret is sent in one line. What has more, such as a private key, cannot be.",
        )
    if not value.isprintable() or (HEADER in place and not value.isascii()):
        raise Invalid("the value has characters that cannot be sent in a request")
    if value != value.strip():
        raise Invalid("the value begins or ends with a blank")
    if not VALUE_CHARS_MIN <= len(value) <= VALUE_CHARS_MAX:
        raise Invalid(
            f"the value has {len(value):,} characters; it must have {VALUE_CHARS_MIN} to "
            f"{VALUE_CHARS_MAX:,}",
            hint="Was it given on standard input, or with --file?" if not value else "",
        )
    return value


def parse_terms(given: Mapping[str, Any], name: str) -> Terms:
    """Of a secret of this name: {hosts?, placement?, agents?}. Where hosts or placement are
    missing, a preset that knows the secret or serves the hosts says them. Raises Invalid."""
    hosts = _texts(given.get("hosts"), "hosts", HOSTS_MAX) or _hosts_of(name)
    checked = tuple(dict.fromkeys(check_pattern(host, f"secret {name}") for host in hosts))
    place = given.get("placement")
    agents = _texts(given.get("agents"), "agents", AGENTS_MAX) or None
    return Terms(
        hosts=checked,
        placement=usual_placement(name, checked) if place is None else parse_placement(place),
        agents=None if agents is None else tuple(dict.fromkeys(agents)),
    )


def _hosts_of(name: str) -> Sequence[str]:
    preset = placement(name)
    if preset is None or not preset.hosts:
        raise Invalid(
            f"secret {name} needs at least one host to which it may be sent",
            hint="Name it: --host api.example.com",
        )
    return preset.hosts


def usual_placement(name: str, hosts: Sequence[str]) -> dict[str, str]:
    """As the preset has it that serves all of the hosts, or whose secret has this name and whose
    hosts are its users' own; else a bearer token."""
    found = next((each for each in presets().values() if _fits(each, name, hosts)), None)
    return dict(found.placement) if found else dict(BEARER)


def _fits(preset: Preset, name: str, hosts: Sequence[str]) -> bool:
    if not preset.placement:
        return False
    return set(hosts) <= set(preset.hosts) or (preset.own_host and preset.secret == name)


def parse_placement(given: Any) -> dict[str, str]:
    """Raises Invalid."""
    one = isinstance(given, Mapping) and len(given) == 1
    kind, value = next(iter(given.items())) if one else ("", None)
    if kind not in _PLACES or not isinstance(value, str) or len(value) > PLACE_CHARS_MAX:
        raise Invalid(f"a placement is one of {', '.join(_PLACES)}, with a text")
    return {kind: _PLACES[kind](value)}


def _header(template: str) -> str:
    name, colon, value = template.partition(":")
    name, value = name.strip(" "), value.strip(" ")
    if not colon or not _TOKEN.fullmatch(name):
        raise Invalid(
            f"{template[:100]!a} is no header", hint="It is like 'Authorization: Bearer {}'."
        )
    if name.lower() in _NOT_OURS:
        raise Invalid(f"the header {name} is the connection's own and carries no secret")
    if value.count("{}") != 1:
        raise Invalid(
            f"the header must have {{}} once, where the value stands: {template[:100]!a}",
            hint="It is like 'Authorization: Bearer {}'.",
        )
    if not (value.isascii() and value.isprintable()):
        raise Invalid(f"the header has characters that no header has: {template[:100]!a}")
    return f"{name}: {value}"


def _query(key: str) -> str:
    if not _PARAMETER.fullmatch(key):
        raise Invalid(f"{key[:100]!a} is no name of a parameter")
    return key


def _basic(user: str) -> str:
    if ":" in user or not user.isprintable():
        raise Invalid(f"{user[:100]!a} is no user's name for basic authentication")
    return user


_PLACES = {HEADER: _header, QUERY: _query, BASIC: _basic}


def _texts(given: Any, what: str, most: int) -> list[str]:
    texts = [] if given is None else given
    if not isinstance(texts, list | tuple) or len(texts) > most:
        raise Invalid(f"{what} must be a list of at most {most} texts")
    if not all(isinstance(each, str) and 0 < len(each) <= NAME_MAX for each in texts):
        raise Invalid(f"each of {what} must be a text of 1 to {NAME_MAX} characters")
    return list(texts)
