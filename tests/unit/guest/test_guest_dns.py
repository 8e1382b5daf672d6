"""The stub DNS server, as bytes."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.egress import Rule
from torpor.guest.dns import answer, read_question
from torpor.guest.places import Places
from torpor.guest.serving import Site

A, AAAA, SVCB, HTTPS, TXT = 1, 28, 64, 65, 16
ADDRESS = "198.18.0.1"


def query(name: str, kind: int = A, number: int = 7, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(each)]) + each.encode() for each in name.split("."))
    return (
        struct.pack(">HHHHHH", number, flags, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, kind, 1)
    )


def ask(name: str, kind: int = A) -> tuple[int, list[str], list[str]]:
    """Code, addresses, and names that were not known."""
    unknown: list[str] = []
    known = {"api.example.com": ADDRESS}
    response = answer(query(name, kind), known.get, unknown.append)
    assert response is not None
    number, flags, questions, answers, *_ = struct.unpack_from(">HHHHHH", response)
    assert (number, flags & 0x8000, questions) == (7, 0x8000, 1)
    addresses = [socket.inet_ntoa(response[-4:])] if answers else []
    return flags & 15, addresses, unknown


@pytest.mark.parametrize("name", ["api.example.com", "API.Example.COM"])
def test_a_known_name_has_its_address(name: str) -> None:
    assert ask(name) == (0, [ADDRESS], [])


@pytest.mark.parametrize("kind", [AAAA, SVCB, HTTPS, TXT])
def test_a_known_name_has_nothing_else(kind: int) -> None:
    assert ask("api.example.com", kind) == (0, [], [])


@pytest.mark.parametrize("name", ["example.com", "xapi.example.com", "api.example.com.evil.com"])
def test_3_another_name_does_not_exist(name: str) -> None:
    assert ask(name) == (3, [], [name])


def test_2_a_name_is_read_as_its_labels_stand() -> None:
    """A NUL or a dot within a label would make another name of it."""
    for label in (b"a\0b", b"a.b", b"\xff", b"a b"):
        name = bytes([len(label)]) + label + b"\x07example\x03com\0"
        asked = query("x")[:12] + name + struct.pack(">HH", A, 1)
        assert read_question(asked) is None
        response = answer(asked, lambda _: ADDRESS, lambda _: None)
        assert response is not None
        assert response[3] & 15 == 1


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_answered_or_not(data: bytes, begun: bool) -> None:
    asked = query("api.example.com")[:12] + data if begun else data
    response = answer(asked, {"api.example.com": ADDRESS}.get, lambda _: None)
    assert response is None or (response[:2] == asked[:2] and response[2] & 0x80)


def places() -> Places:
    made = Places()
    rules = (
        Rule("api.example.com"),
        Rule("**.deep.example.com"),
        Rule("db.example.com", port=5432, protocol="tcp"),
        Rule("api.example.com", port=8443),
        Rule("no.deep.example.com", deny=True, port=0, protocol=""),
    )
    made.obey(rule.to_guest() for rule in rules)
    return made


def test_each_name_has_an_address_of_its_own_that_leads_back_to_it() -> None:
    made = places()
    names = ("api.example.com", "a.b.deep.example.com", "db.example.com")
    addresses = [made.address_of(name) for name in names]
    assert len({*addresses, None}) == 4
    assert all(address and address.startswith("198.18.") for address in addresses)
    assert made.address_of("API.example.com") == addresses[0]
    assert made.address_of("evil.com") is None
    ports = (443, 443, 5432)
    located = [made.locate(str(a), port) for a, port in zip(addresses, ports, strict=True)]
    schemes = ("https", "https", "tcp")
    assert located == [Site(*each) for each in zip(schemes, names, ports, strict=True)]
    assert made.unusual_ports("api.example.com") == [8443]
    assert made.locate("198.18.99.99", 443) is None


@pytest.mark.parametrize(
    ("authority", "same"),
    [
        ("api.example.com", True),
        ("API.example.com.", True),  # 4: case, and the root's dot
        ("api.example.com:443", True),
        ("api.example.com:80", False),
        ("api.example.com:", True),
        ("api.example.com:0443", True),
        ("api.example.com:443:443", False),
        ("api.example.com ", False),
        ("user@api.example.com", False),
        ("evil.com", False),
        ("", False),
    ],
)
def test_4_what_names_a_site(authority: str, same: bool) -> None:
    assert Site("https", "api.example.com", 443).named_by(authority) is same
