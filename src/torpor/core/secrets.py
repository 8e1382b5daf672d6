"""What a secret is, and whom it serves: its name, its value, hosts, placement, agents. Pure.

    torpor secrets set GITHUB_TOKEN --host api.github.com --agent triage

The value goes to these hosts and to no other, in this place of a request and in no other, for these
agents and for no other, whatever an agent's file says: that only asks for a secret by its name. So
these terms are sealed along with the value (`torpor.egress.sealed`). `torpor.core.placements` has
the places.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torpor.core import placements
from torpor.core.egress import SECRET_CHARS_MAX
from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern
from torpor.core.limits import NAME_MAX
from torpor.core.placements import HEADER
from torpor.core.presets import Preset, placement, presets

BEARER = {HEADER: "Authorization: Bearer {}"}
TERMS_MAX = 100  # hosts, or agents, of one

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_-]{{0,{SECRET_CHARS_MAX - 1}}}", re.ASCII)


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
        agents = given.get("agents")
        hosts, place = tuple(map(str, given["hosts"])), dict(given["placement"])
        return cls(hosts, place, None if agents is None else tuple(map(str, agents)))


@dataclass(frozen=True)
class Author:
    """Who changes a secret, for the record, and from which address, where that is known."""

    by: str
    whence: str = ""


def check_secret_name(name: Any) -> str:
    """Raises Invalid."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise Invalid(
            f"{str(name)[:80]!a} is no name of a secret",
            hint="A name is like GITHUB_TOKEN: letters, digits, _ and -, and no digit first.",
        )
    return name


def check_value(value: str) -> str:
    """A secret's value without the line's end that a file or a pipe leaves. Raises Invalid, which
    shows nothing of it."""
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise Invalid(
            "the value is empty",
            hint="Give it on standard input, or with --file; in a terminal it is asked for.",
        )
    if "\n" in value or "\r" in value:
        raise Invalid(
            "the value has several lines",
            hint="A secret is sent in one line. What has more, such as a private key, cannot be.",
        )
    return placements.check_value(value, "the value")


def parse_terms(given: Mapping[str, Any], name: str) -> Terms:
    """Of a secret of this name: {hosts?, placement?, agents?}. Where hosts or placement are
    missing, a preset that knows the secret or serves the hosts says them. Raises Invalid."""
    hosts = _texts(given.get("hosts"), "hosts") or _hosts_of(name)
    checked = tuple(dict.fromkeys(check_pattern(host, f"secret {name}") for host in hosts))
    place, agents = given.get("placement"), _texts(given.get("agents"), "agents")
    return Terms(
        hosts=checked,
        placement=usual_placement(name, checked) if place is None else _placement(place, name),
        agents=tuple(dict.fromkeys(agents)) or None,
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
    if not preset.placement or (preset.placed_for and preset.placed_for not in hosts):
        return False
    return set(hosts) <= set(preset.hosts) or (preset.own_host and preset.secret == name)


def _placement(given: Any, name: str) -> dict[str, str]:
    """In the spelling that it was given in, which people know."""
    parsed = placements.parse_placement(given, f"secret {name}")
    ((kind, text),) = given.items()
    if kind != HEADER:
        return {kind: text}
    if "{}" not in text:
        raise Invalid(
            f"secret {name}: {text[:80]!a} does not say where the secret stands",
            hint="Write {} once in its place: 'Authorization: Bearer {}'",
        )
    return {kind: f"{text.partition(':')[0].strip()}: {parsed.template}"}


def _texts(given: Any, what: str) -> list[str]:
    texts = [] if given is None else given
    if not isinstance(texts, (list, tuple)) or len(texts) > TERMS_MAX:
        raise Invalid(f"{what} must be a list of at most {TERMS_MAX} texts")
    if not all(isinstance(each, str) and 0 < len(each) <= NAME_MAX for each in texts):
        raise Invalid(f"each of {what} must be a text of 1 to {NAME_MAX} characters")
    return list(texts)
