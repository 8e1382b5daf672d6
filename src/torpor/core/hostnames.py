"""Names of hosts as rules and requests have them: one spelling each, or refused. Pure.

    api.example.com     itself
    *.example.com       one label before it: a.example.com
    **.example.com      itself and all below it: example.com, a.example.com, a.b.example.com

An address is no name, however it is spelled: `127.1`, `0x7f000001`, `[::1]`. A wildcard may not be
of a name under which anybody can have a name of their own: a public suffix (`*.co.uk`), or a domain
of shared hosting (`*.github.io`).
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from pathlib import Path

from torpor.core.errors import Invalid

CHARS_MAX = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
# What the URL standard takes for an address: the last label is a number.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
EVERY = "**"


def normalize_host(text: str, what: str) -> str:
    """A host's name in its one spelling: lower case, no dot at its end. Raises Invalid, whose
    message begins with `what`."""
    name = text.lower() if text.isascii() else text
    name = name[:-1] if name.endswith(".") else name
    if problem := _fault(name):
        raise Invalid(f"{what}: {_shown(text)} {problem[0]}", hint=problem[1])
    return name


@lru_cache(maxsize=4096)
def _fault(name: str) -> tuple[str, str] | None:
    """Why `name` is none, and what to do about it."""
    if not name.isascii():
        return "is not in ASCII", "Write it as clients send it, in Punycode: xn--…"
    if _is_address(name):
        return "is an address, not a name", "Addresses are not judged: name the host."
    if "://" in name or "/" in name:
        return "is not the name of a host alone", "Leave out the scheme and the path."
    labels = name.split(".")
    if len(name) > CHARS_MAX or not all(map(_LABEL.fullmatch, labels)):
        hint = "A port goes into `port`." if ":" in name else "It looks like api.example.com"
        return "is not the name of a host", hint
    return None


def _is_address(name: str) -> bool:
    if name.startswith("[") or name.count(":") > 1:
        return True
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None


def check_pattern(text: str, what: str, *, every: bool = False) -> str:
    """A pattern for hosts that a rule allows; with `every` one that only forbids, and may be of all
    hosts. Raises Invalid."""
    if every and text == EVERY:
        return text
    star, dot, rest = text.partition(".")
    if not dot or star not in ("*", "**"):
        if "*" in text:
            raise Invalid(
                f"{what}: {_shown(text)} has * where it is not a label of its own at the front",
                hint="*.example.com is one label before it, **.example.com any number.",
            )
        return _named(normalize_host(text, what), what)
    base = _named(normalize_host(rest, what), what)
    if not every and is_shared(base):
        raise Invalid(
            f"{what}: {_shown(text)} would allow names that anybody can have",
            hint=f"Name the hosts below {base} one by one.",
        )
    return f"{star}.{base}"


def _named(host: str, what: str) -> str:
    top = host.rpartition(".")[2]
    if top == "localhost":
        raise Invalid(
            f"{what}: {host} is the machine itself",
            hint="For a service of the host that runs torpor, give it a name such as "
            "ollama.internal with [[host]] in egress.toml there.",
        )
    if top == "torpor":
        raise Invalid(f"{what}: names below torpor are torpor's own")
    return host


@lru_cache(maxsize=1024)
def is_shared(domain: str) -> bool:
    """Whether different people have names directly below `domain`."""
    labels, known = domain.split("."), _domains()
    if len(labels) == 1 or domain in known["shared"] | known["deeply_shared"]:
        return True
    if len(labels) == 2:
        return len(labels[1]) == 2 and labels[0] in known["kinds"]
    return any(".".join(labels[n:]) in known["deeply_shared"] for n in range(1, len(labels) - 1))


@cache
def _domains() -> dict[str, frozenset[str]]:
    import tomllib  # not in the guest's Python, which checks no patterns

    text = Path(__file__).with_name("hostnames.toml").read_text()
    return {key: frozenset(words.split()) for key, words in tomllib.loads(text).items()}


def matches(pattern: str, host: str) -> bool:
    """Both in their one spelling."""
    if pattern == EVERY:
        return True
    star, _, base = pattern.partition(".")
    if star == "*":
        label, _, rest = host.partition(".")
        return bool(label) and rest == base
    if star == "**":
        return host == base or host.endswith(f".{base}")
    return host == pattern


def _shown(text: str) -> str:
    return ascii(text[:80])
