"""Where a secret goes in a request, and which credentials of the client's own go."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torpor.core.errors import Invalid
from torpor.core.placements import CREDENTIALS, check_value, parse_placement

BEARER = parse_placement({"header": "Authorization: Bearer {}"}, "secret")
QUERY = parse_placement({"query": "key"}, "secret")
BASIC = parse_placement({"basic": "x-access-token"}, "secret")
OTHERS = [("accept", "*/*"), ("x-request-id", "1")]


def test_a_secret_is_placed() -> None:
    assert BEARER.place("s3", OTHERS, "/a?b=c") == (
        [*OTHERS, ("authorization", "Bearer s3")],
        "/a?b=c",
    )
    assert BASIC.place("s3", [], "/")[0] == [
        ("authorization", "Basic " + base64.b64encode(b"x-access-token:s3").decode())
    ]
    for target, placed in (
        ("/a", "/a?key=s%2F3%26"),
        ("/a?", "/a?key=s%2F3%26"),
        ("/a?b=%2e", "/a?b=%2e&key=s%2F3%26"),
    ):
        assert QUERY.place("s/3&", OTHERS, target) == (OTHERS, placed)


@pytest.mark.parametrize("placement", [BEARER, QUERY, BASIC])
def test_attempt_27_an_attackers_own_key_does_not_go_out(placement: Any) -> None:
    theirs = [(name.title(), "theirs") for name in sorted(CREDENTIALS)]
    parameters = "access_token=theirs&api_key=theirs&API%5FKEY=theirs&a=1;private_token=theirs"
    headers, target = placement.place("ours", [*theirs, *OTHERS], f"/x?{parameters}")
    assert "theirs" not in target + str(headers) and "a=1" in target
    assert str(headers).count("ours") + target.count("ours") == (placement is not BASIC)


def test_attempt_27_the_place_of_the_secret_itself_is_not_taken_by_the_client() -> None:
    own = parse_placement({"header": "X-Special"}, "secret")
    assert own.place("ours", [("x-special", "theirs")], "/")[0] == [("x-special", "ours")]
    assert QUERY.place("ours", [], "/a?key=theirs&KEY=theirs&b=1")[1] == "/a?b=1&key=ours"
    google = parse_placement({"header": "x-goog-api-key: {}"}, "secret")
    assert google.place("ours", [], "/a?key=theirs")[1] == "/a"


@pytest.mark.parametrize(
    "given_",
    [
        *(None, "x", {}, {"header": "A: {}", "query": "b"}, {"cookie": "a"}, {"header": 3}),
        *({"header": "Authorization: Bearer"}, {"header": "A: {} {}"}, {"header": "A b: {}"}),
        *({"header": "Host: {}"}, {"header": "Connection: {}"}, {"header": "A: {}\r\nB: c"}),
        *({"query": ""}, {"query": "a&b"}, {"query": "a=b"}, {"basic": "a:b"}, {"basic": ""}),
    ],
)
def test_what_is_no_placement_is_refused(given_: Any) -> None:
    with pytest.raises(Invalid, match=r"^secret"):
        parse_placement(given_, "secret")


@pytest.mark.parametrize("placement", [BEARER, QUERY, BASIC])
def test_a_placement_is_stored_as_it_was_given(placement: Any) -> None:
    assert parse_placement(placement.to_json(), "secret") == placement


@pytest.mark.parametrize(
    "value", ["", "a\n", " blank", "a\0", "ä", "a\r\nHost: b", None, "a" * 20_000]
)
def test_a_value_that_cannot_stand_in_a_header_is_refused_and_not_shown(value: Any) -> None:
    with pytest.raises(Invalid) as refusal:
        check_value(value, "the secret KEY")
    assert not value or value not in refusal.value.message


@given(st.text("abAB%=&;?_/key", max_size=40))
def test_what_is_left_of_a_target_is_as_it_was(query: str) -> None:
    target = f"/path?{query}"
    _, placed = BEARER.place("s", [], target)
    assert placed.startswith("/path")
    left = placed.partition("?")[2].split("&")
    assert all(pair in query for pair in left)
