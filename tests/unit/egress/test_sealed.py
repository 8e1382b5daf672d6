"""A sealed secret opens for its host, under its name, on its terms, and not otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from torpor.core.errors import Damaged, Invalid
from torpor.core.secrets import Terms
from torpor.egress.sealed import Secret, entry, seal, unseal
from torpor.snapshot.seal import Key

HOST = Key.new()
TERMS = Terms(("api.example.com",), {"header": "Authorization: Bearer {}"}, ("triage",))
SECRET = Secret("TOKEN", TERMS, "s3cr3t-wert-ü")


def sent() -> dict[str, Any]:
    return entry("TOKEN", TERMS, seal(HOST, SECRET))


def test_it_opens_on_its_host_as_it_was() -> None:
    assert unseal(HOST, sent()) == SECRET
    forever = replace(SECRET, terms=replace(TERMS, agents=None))
    assert unseal(HOST, entry("TOKEN", forever.terms, seal(HOST, forever))) == forever
    assert seal(HOST, SECRET) != seal(HOST, SECRET)


def test_its_value_is_nowhere_to_be_seen() -> None:
    assert SECRET.value not in repr(SECRET)
    assert SECRET.value.encode() not in seal(HOST, SECRET)
    assert SECRET.value not in str(sent())


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
def test_what_was_changed_does_not_open(change: str) -> None:
    with pytest.raises(Damaged, match="does not open") as caught:
        unseal(HOST, sent() | CHANGES[change])
    assert SECRET.value not in str(caught.value)


def test_another_host_does_not_open_it() -> None:
    with pytest.raises(Damaged, match="another host's key"):
        unseal(Key.new(), sent())


@pytest.mark.parametrize(
    "change",
    [{"name": "a b"}, {"sealed": "?"}, {"sealed": 1}, {"hosts": None}, {"placement": "x"}],
)
def test_what_is_malformed_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        unseal(HOST, sent() | change)
    with pytest.raises(Invalid):
        unseal(HOST, {key: value for key, value in sent().items() if key != next(iter(change))})
