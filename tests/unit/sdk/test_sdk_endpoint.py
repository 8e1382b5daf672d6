"""Where names and places lead in a process without a machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from torpor.core.egress import Rule
from torpor.sdk.endpoint import Endpoint

Made = tuple[Endpoint, dict[str, str | None]]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody has at all addresses."""
    with socket.create_server(("", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def made(tmp_path: Path, taken: int) -> Iterator[Made]:
    endpoint = Endpoint(lambda line: None, lambda: None, lambda asking: None)
    rules = (
        Rule("api.example.com"),
        Rule("**.wild.example.com"),
        Rule("db.example.com", port=taken, protocol="tcp"),
    )
    given = {"egress": [rule.to_guest() for rule in rules], "trust": str(tmp_path), "entry": "a.py"}
    yield endpoint, endpoint.obey(given)
    assert given == {"entry": "a.py"}
    endpoint.close()


def test_a_connection_of_bytes_is_listened_for_elsewhere_if_its_port_is_taken(
    made: Made, taken: int
) -> None:
    endpoint, environment = made
    host, _, port = str(environment[f"TORPOR_TCP_DB_EXAMPLE_COM_{taken}"]).partition(":")
    assert host == "127.0.0.1" and int(port) != taken
    address = endpoint.address_of("db.example.com")
    assert address is not None and address != host
    assert endpoint.listener_of(address, taken) == (host, int(port))


def test_the_web_is_listened_for_at_any_port_and_what_is_no_place_is_not(made: Made) -> None:
    endpoint, environment = made
    api, wild = map(endpoint.address_of, ("api.example.com", "a.b.wild.example.com"))
    assert api is not None and wild is not None and api != wild
    places = {endpoint.listener_of(each, 443) for each in (api, wild)}
    assert None not in places and len(places) == 2
    assert endpoint.listener_of(api, 9) is None
    assert endpoint.listener_of("127.0.0.1", 80) is None
    assert endpoint.address_of("evil.example") is None
    assert environment["OPENAI_BASE_URL"]  # no rule is for a model's API


def test_without_rules_nothing_is_to_be_set() -> None:
    endpoint = Endpoint(lambda line: None, lambda: None, lambda asking: None)
    assert endpoint.obey({"entry": "a.py"}) == {}
    endpoint.close()
