"""A sealed secret opens for its host, under its name, on its terms, and not otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from torpor.core.errors import Damaged, Missing
from torpor.core.home import Home
from torpor.core.secrets import Terms
from torpor.egress.sealed import entry, opener, owner_of
from torpor.egress.secrets import Secret, parse_entry
from torpor.snapshot import hostkey

TERMS = Terms(("api.example.com",), {"header": "Authorization: Bearer {}"}, ("triage",))
VALUE = "s3cr3t-value-11"


def home(root: Path) -> Home:
    made = Home(root).create()
    hostkey.make_host_key(made.host_key)
    return made


def sent(of: Home, terms: Terms = TERMS) -> dict[str, Any]:
    """As the server hands it on."""
    host = hostkey.read_host_key(of.host_key)
    sealed = hostkey.seal(host, hostkey.SECRET, owner_of("TOKEN", terms), VALUE.encode())
    return entry("TOKEN", terms, sealed)


def opened(of: Home, given: dict[str, Any]) -> Secret:
    return parse_entry(given, opener(of))


def test_it_opens_on_its_host_as_it_was(tmp_path: Path) -> None:
    here = home(tmp_path)
    assert opened(here, sent(here)).value == VALUE
    assert opened(here, sent(here, Terms(TERMS.hosts, {"query": "k"}))).value == VALUE
    assert sent(here)["sealed"] != sent(here)["sealed"]


def test_its_value_is_nowhere_to_be_seen(tmp_path: Path) -> None:
    here = home(tmp_path)
    assert VALUE not in str(sent(here)) + repr(opened(here, sent(here)))


CHANGES: dict[str, dict[str, Any]] = {
    "another name": {"name": "OTHER"},
    "another host": {"hosts": ["attacker.example"]},
    "a host more": {"hosts": ["api.example.com", "attacker.example"]},
    "another place": {"placement": {"query": "x"}},
    "another header": {"placement": {"header": "X-Echo: {}"}},
    "another agent": {"agents": ["other"]},
    "all agents": {"agents": None},
    "nothing": {"sealed": ""},
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_does_not_open(tmp_path: Path, change: str) -> None:
    here = home(tmp_path)
    with pytest.raises(Damaged, match="does not open") as caught:
        _ = opened(here, sent(here) | CHANGES[change]).value
    assert VALUE not in str(caught.value)


def test_another_host_does_not_open_it(tmp_path: Path) -> None:
    here, there = home(tmp_path / "here"), home(tmp_path / "there")
    with pytest.raises(Damaged, match="another host"):
        _ = opened(there, sent(here)).value
    given = sent(here)
    here.host_key.unlink()
    with pytest.raises(Missing, match="is gone"):
        _ = opened(here, given).value


def test_no_key_of_another_kind_opens_as_a_secret(tmp_path: Path) -> None:
    here = home(tmp_path)
    host = hostkey.read_host_key(here.host_key)
    owner = owner_of("TOKEN", TERMS)
    for purpose in (hostkey.RUN_KEY, hostkey.AUTHORITY):
        with pytest.raises(Damaged):
            opener(here)(owner, hostkey.seal(host, purpose, owner, b"x" * 32))
