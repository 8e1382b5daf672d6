"""Rules for known services, as data: `presets.toml` beside this file.

    [[tool.torpor.egress]]
    preset = "openai"                 # all that the preset has
    secret = "TEAM_KEY"               # instead of the preset's; true: that which it may have;
                                      # false: none
    methods = ["GET"]                 # of the preset's rules, what is left of them
    ask = true                        # each request that these allow
    record = true                     # also what the preset does not record
    host = "acme.openai.azure.com"    # where the preset has no host of its own
    port = 8000
    protocol = "http"

In `presets.toml`, a preset has

    about          what it is for
    secret         the name of the secret it asks for; `optional_secret` if only on demand
    header, query, basic   where that goes, unless the secret says otherwise (`torpor secrets set`)
    placed_for     the host that needs it there; a secret that does not serve it is a bearer token
    environment    what clients need to be set before they try at all: placeholders
    own_host       the file may name the host; [preset.rules] then have none
    host, port, protocol   those to use where the file names none
    rules          what it allows, as entries of the file; "model" in `record` is a model's call

Whoever has a service that is like one of them, on an address of their own, names its host.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from torpor.core import targets
from torpor.core.egress import (
    HTTP,
    HTTPS,
    MODEL,
    PORTS,
    RECORDED_HTTP,
    TCP,
    Request,
    Rule,
    Verdict,
    check_keys,
    flag,
    parse_methods,
    parse_port,
    parse_secret,
    to_add,
)
from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern, matches, normalize_host

TABLE = Path(__file__).with_name("presets.toml")
KEYS = ("preset", "secret", "methods", "ask", "record", "host", "port", "protocol")


@dataclass(frozen=True)
class Preset:
    """`rules` have no host where the file names it. `placement` is what `torpor secrets set` takes
    for the secret unless it is given one: {"header": "Authorization: Bearer {}"}."""

    name: str
    about: str
    rules: tuple[Rule, ...]
    secret: str = ""
    optional_secret: bool = False
    placement: Mapping[str, str] = field(default_factory=dict)
    placed_for: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    own_host: bool = False
    host: str = ""
    port: int = 443
    protocol: str = HTTPS

    @property
    def hosts(self) -> tuple[str, ...]:
        """Those that its secret serves, unless the file names one."""
        named = (rule.host for rule in self.rules if rule.secret)
        return tuple(dict.fromkeys(host for host in named if host))


@cache
def presets() -> Mapping[str, Preset]:
    document = tomllib.loads(TABLE.read_text())
    return {name: _preset(name, row) for name, row in document.items()}


def _preset(name: str, row: Mapping[str, Any]) -> Preset:
    placement = {key: row[key] for key in ("header", "query", "basic") if key in row}
    protocol = row.get("protocol", HTTPS)
    as_is = ("about", "secret", "placed_for", "host", "own_host")
    row_of = {key: row[key] for key in as_is if key in row}
    return Preset(
        name=name,
        rules=tuple(_rule(name, row, rule) for rule in row["rules"]),
        optional_secret=row.get("optional_secret", False),
        placement=placement,
        environment=row.get("environment", {}),
        port=row.get("port", PORTS[protocol]),
        protocol=protocol,
        **row_of,
    )


def _rule(name: str, row: Mapping[str, Any], given: Mapping[str, Any]) -> Rule:
    what = f"preset {name}"
    return Rule(
        host=given.get("host", ""),
        methods=parse_methods(given, what),
        paths=tuple(targets.check_path(path, what) for path in given.get("paths", ())),
        secret=row.get("secret", "") if given.get("secret", True) else "",
        record=given.get("record", ""),
        origin=what,
    )


def expand(given: Mapping[str, Any], what: str) -> tuple[Rule, ...]:
    """The rules of an entry that names a preset. Raises Invalid."""
    check_keys(given, KEYS, what)
    known, name = presets(), given["preset"]
    if not isinstance(name, str) or name not in known:
        raise Invalid(
            f"{what}: there is no preset {str(name)[:40]!a}",
            hint=f"There are {', '.join(known)}; for any other service, name its host.",
        )
    preset = known[name]
    host, port, protocol = _place(preset, given, what)
    methods = parse_methods(given, what)
    secret = _secret(preset, given, what)
    if protocol == HTTP and secret:
        raise Invalid(f"{what}: a secret is not sent over plain http", hint="Use https.")
    record = RECORDED_HTTP if flag(given, "record", what) else ""
    ask = flag(given, "ask", what)
    rules = tuple(
        replace(
            rule,
            host=rule.host or host,
            port=port,
            protocol=protocol,
            methods=kept,
            secret=secret if rule.secret or not preset.secret else "",
            ask=ask,
            record=rule.record or record,
        )
        for rule in preset.rules
        if (kept := _common(rule.methods, methods)) is not None
    )
    if not rules:
        raise Invalid(f"{what}: the preset {name} allows none of {', '.join(methods)}")
    return rules


def _common(own: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...] | None:
    """None if nothing is left; empty are all."""
    if not own or not wanted:
        return own or wanted
    return tuple(method for method in own if method in wanted) or None


def _place(preset: Preset, given: Mapping[str, Any], what: str) -> tuple[str, int, str]:
    if not preset.own_host:
        if found := [key for key in ("host", "port", "protocol") if key in given]:
            raise Invalid(
                f"{what}: the preset {preset.name} has its own {' and '.join(found)}",
                hint="For a server of one's own that is like OpenAI's, there is the preset "
                "openai-compatible.",
            )
        return "", preset.port, preset.protocol
    host = given.get("host", preset.host)
    if not isinstance(host, str) or not host:
        raise Invalid(f"{what}: the preset {preset.name} needs a host")
    protocol = given.get("protocol", preset.protocol)
    if protocol not in (HTTPS, HTTP):
        raise Invalid(f"{what}.protocol must be https or http")
    default = preset.port if protocol == preset.protocol else PORTS[protocol]
    return check_pattern(host, f"{what}.host"), parse_port(given, what, default), protocol


def _secret(preset: Preset, given: Mapping[str, Any], what: str) -> str:
    value = given.get("secret", not preset.optional_secret)
    if value is True:
        if not preset.secret and "secret" in given:
            raise Invalid(f"{what}: the preset {preset.name} knows no secret; name one")
        return preset.secret
    return "" if value is False else parse_secret(value, what)


def environment(given: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What the clients of an agent with these entries need to be set: placeholders where a key
    would stand, which never leave the host. An agent whose entries have a model's API is not led to
    the deployment's own model."""
    found: dict[str, str] = {}
    for entry in given:
        preset = presets().get(entry.get("preset", ""))
        if preset is not None and entry.get("secret", not preset.optional_secret) is not False:
            found |= preset.environment
    return found


def placement(secret: str) -> Preset | None:
    """The preset whose secret has this name, if there is one: where it goes and whom it serves,
    unless that is given."""
    return next((p for p in presets().values() if p.secret == secret), None)


@cache
def model_hosts() -> frozenset[str]:
    """Of the presets' own."""
    rules = (rule for preset in presets().values() for rule in preset.rules)
    return frozenset(rule.host for rule in rules if rule.record == MODEL and rule.host)


def preset_for(host: str) -> Preset | None:
    """The first of those that know a host, which is normalized."""
    return next((preset for preset in presets().values() if _knows(preset, host)), None)


def _knows(preset: Preset, host: str) -> bool:
    places = {rule.host or preset.host for rule in preset.rules} - {""}
    return any(matches(place, host) for place in places)


def hinted(verdict: Verdict, request: Request) -> Verdict:
    """What `judge` says of `request`, where no rule names its host with the preset to add, if one
    is for it. For the host alone: no guest has the table."""
    if verdict.code != "no_rule" or request.scheme == TCP:
        return verdict
    preset = preset_for(normalize_host(request.host, "the host"))
    if preset is None or request.port not in (preset.port, PORTS[request.scheme]):
        return verdict
    return replace(verdict, hint=to_add(f'preset = "{preset.name}"'))
