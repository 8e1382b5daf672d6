"""Secrets as the broker has them: whom they serve, where they go, and that they do not come back.

An entry, as a worker gives it (`Judge.set_secrets`):

    {name, hosts: ["api.github.com", …], agents: null | ["NAME", …], placement: {header: …},
     sealed: base 64}

`sealed` is opened only here, and only when the secret is first used. Which hosts and agents it
serves is stored with it: an agent's file only asks for it.
"""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote, quote_plus

from torpor.core.errors import Invalid
from torpor.core.hostnames import check_pattern, matches
from torpor.core.placements import SECRET_CHARS_MIN, Placement, check_value, parse_placement
from torpor.core.secrets import Terms
from torpor.egress.admission import Headers, Leak
from torpor.egress.sealed import owner_of

# Opens a value that was sealed to this owner (`torpor.egress.sealed`). Raises TorporError.
Unseal = Callable[[str, bytes], str]


@dataclass(frozen=True)
class Secret:
    name: str
    hosts: tuple[str, ...]
    agents: tuple[str, ...] | None
    placement: Placement
    sealed: bytes = field(repr=False)
    owner: str  # to what it is sealed (`torpor.egress.sealed`)
    unseal: Unseal = field(repr=False, compare=False)

    @cached_property
    def value(self) -> str:
        """Raises TorporError, which does not show it."""
        return check_value(self.unseal(self.owner, self.sealed), f"the secret {self.name}")

    @cached_property
    def search(self) -> Search | None:
        return Search.of(self.value)

    def fault(self, agent: str, host: str) -> tuple[str, str]:
        """Why it does not serve this agent at this host, and what to do; ("", "") if it does."""
        if not any(matches(pattern, host) for pattern in self.hosts):
            return (
                f"the secret {self.name} is not for {host}, only for {', '.join(self.hosts)}",
                f"Whoever has its value can set it again with --host {host}.",
            )
        if self.agents is not None and agent not in self.agents:
            return (
                f"the secret {self.name} is not for the agent {agent}",
                f"Whoever has its value can set it again with --agent {agent}.",
            )
        return "", ""


class Secrets:
    """Those of a host, as they were last given."""

    def __init__(self, unseal: Unseal) -> None:
        self._unseal = unseal
        self._secrets: dict[str, Secret] = {}

    def set(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """All there are, instead of those before. What cannot be read is not there. Raises
        Invalid."""
        read: dict[str, Secret] = {}
        problems = []
        for entry in entries:
            try:
                secret = parse_entry(entry, self._unseal)
            except Invalid as error:
                problems.append(error.message)
                continue
            was = self._secrets.get(secret.name)
            # One that is as before stays opened.
            read[secret.name] = was if was == secret else secret
        self._secrets = read
        if problems:
            raise Invalid("; ".join(problems))

    def find(self, name: str) -> Secret | None:
        return self._secrets.get(name)


def parse_entry(entry: Any, unseal: Unseal) -> Secret:
    """Raises Invalid, which does not show the value."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise Invalid("a secret has no name")
    what = f"the secret {entry['name'][:100]!a}"
    hosts, agents, sealed = entry.get("hosts"), entry.get("agents"), entry.get("sealed")
    if not _are_texts(hosts) or not hosts or not (agents is None or _are_texts(agents)):
        raise Invalid(f"{what} must have hosts, and agents or none")
    if not isinstance(sealed, str):
        raise Invalid(f"{what} has no value")
    try:
        value = base64.b64decode(sealed, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(f"{what} has a value that is not base 64") from None
    return Secret(
        name=entry["name"],
        hosts=tuple(check_pattern(host, f"{what}: hosts") for host in hosts),
        agents=None if agents is None else tuple(agents),
        placement=parse_placement(entry.get("placement"), what),
        sealed=value,
        owner=owner_of(entry["name"], Terms.of_json(entry)),
        unseal=unseal,
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(each, str) for each in value)


def forms_of(value: str) -> tuple[bytes, ...]:
    """How answers write `value`: as it is, in base 64 at each of the three places it can begin at,
    with % as in URLs, in hexadecimal, as JSON and HTML escape it, backwards, and in the wide
    encodings of Unicode."""
    raw = value.encode()
    escaped = json.dumps(value)[1:-1]
    texts = {
        value,
        quote(value, safe=""),
        quote(value),
        quote_plus(value),
        escaped,
        escaped.replace("/", "\\/"),
        "".join(f"\\u{ord(c):04x}" for c in value),
        html.escape(value),
        value[::-1],
    }
    texts |= {text.lower() for text in (quote(value, safe=""), quote_plus(value)) if "%" in text}
    texts |= {"".join(f"%{byte:02x}" for byte in raw), "".join(f"%{byte:02X}" for byte in raw)}
    texts |= {raw.hex(), raw.hex().upper()}
    for place in range(3):
        texts |= set(_base64(raw, place))
    forms = {text.encode() for text in texts}
    # Without the last zeros: so it is in both orders of bytes.
    forms |= {value.encode(f"utf-{bits}-le").rstrip(b"\0") for bits in (16, 32)}
    return tuple(sorted(forms, key=len, reverse=True))


def _base64(raw: bytes, place: int) -> Iterable[str]:
    """What is sure to be in the base 64 of anything that has `raw` after 3n + `place` bytes:
    without the characters that hold bits of what stands around it."""
    encoded = base64.b64encode(bytes(place) + raw).decode().rstrip("=")
    first = (0, 2, 3)[place]
    whole = (place + len(raw)) * 8 // 6
    text = encoded[first:whole]
    yield text
    yield text.replace("+", "-").replace("/", "_")
    yield quote(text, safe="")  # as a parameter


@dataclass(frozen=True)
class Search:
    """For a secret in bytes: in all forms at once."""

    forms: tuple[bytes, ...]
    found: re.Pattern[bytes]
    firsts: re.Pattern[bytes]  # the byte that one begins with
    anyhow: re.Pattern[bytes]  # in capitals or not: names of headers come in small letters

    @classmethod
    def of(cls, value: str) -> Search | None:
        """None for a placeholder, which is not looked for."""
        if len(value) < SECRET_CHARS_MIN:
            return None
        forms = forms_of(value)
        firsts = b"".join({re.escape(form[:1]) for form in forms})
        whole = b"|".join(map(re.escape, forms))
        first = re.compile(b"[" + firsts + b"]")
        return cls(forms, re.compile(whole), first, re.compile(whole, re.IGNORECASE))

    def beginning(self, data: bytes) -> int:
        """Where the end of `data` begins that may go on as a form of the secret."""
        start = max(0, len(data) - len(self.forms[0]) + 1)
        for match in self.firsts.finditer(data, start):
            tail = data[match.start() :]
            if any(form.startswith(tail) for form in self.forms):
                return match.start()
        return len(data)


class Redactor:
    """Searches one answer for a secret, as it comes (`admission.Redaction`).

    Of the bytes that came, only those are held back that may be the beginning of it."""

    def __init__(self, name: str, search: Search | None) -> None:
        self._name, self._search = name, search
        self._held = b""

    def head(self, headers: Headers) -> Headers:
        for name, value in headers:
            if name == "content-encoding" and value.strip().lower() not in ("", "identity"):
                raise Leak(
                    f"it is encoded ({value[:40]}) though that was not wanted, so that nobody can "
                    f"see whether the secret {self._name} is in it"
                )
            # A chain of encodings is one, too, and so is transfer-encoding: gzip.
            if name == "transfer-encoding" and value.strip().lower() not in ("", "chunked"):
                raise Leak(f"it is encoded ({value[:40]})")
            line = f"{name}: {value}".encode("latin-1", "replace")
            if self._search is not None and self._search.anyhow.search(line):
                raise self._leak()
        return headers

    def feed(self, data: bytes) -> bytes:
        if self._search is None:
            return data
        whole = self._held + data
        if self._search.found.search(whole):
            raise self._leak()
        held = self._search.beginning(whole)
        self._held = whole[held:]
        return whole[:held]

    def close(self) -> bytes:
        rest, self._held = self._held, b""
        return rest

    def _leak(self) -> Leak:
        return Leak(f"the secret {self._name} is in it")
